//! The order of things, explored in full: a model of the operator's steps, of the cluster and of users, in which every
//! interleaving is tried. The model is of the design and not of the code; that the code keeps to the design is what the other
//! tests here are for.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

/// A name under which there may be a sandbox and its children.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Slot {
    sandbox: Option<Sandbox>,
    wall: Option<Child>,
    proxy: Option<Child>,
    agent: Option<Child>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Sandbox {
    uid: u8,
    spec: u8,
    /// Counts writes: the resourceVersion.
    version: u8,
    held: bool,
    ending: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Child {
    /// UID of its sandbox.
    of: u8,
    spec: u8,
    ending: bool,
}

/// How far a pass has come; what it has read is in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Pass {
    #[default]
    Idle,
    /// The walls of this sandbox stand.
    Sealed(Sandbox),
    /// Its proxy is there.
    Supplied(Sandbox),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct World {
    slots: [Slot; 2],
    passes: [Pass; 2],
    /// What a watch that is late still shows.
    late: Option<(usize, Slot)>,
    crashes: u8,
    stale_reads: u8,
    deeds: u8,
    /// The operator has ended an agent that was as it is to be.
    harm: bool,
}

/// What may happen besides the operator and the cluster: a crash, a watch that is late, and two deeds of users.
const BUDGET: World = World {
    slots: [EMPTY; 2],
    passes: [Pass::Idle; 2],
    late: None,
    crashes: 1,
    stale_reads: 1,
    deeds: 2,
    harm: false,
};
/// So many states there are, and so many in which nothing happens any more: fewer would mean that something is not tried.
const STATES: usize = 38_302;
const RESTS: usize = 60;
const EMPTY: Slot = Slot { sandbox: None, wall: None, proxy: None, agent: None };

/// Which rules the model keeps; the controls take one out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Without {
    Nothing,
    /// An agent is created beside a wall that was not seen to stand.
    Seal,
    /// Walls are released while an agent is there.
    Order,
    /// A deletion names no UID.
    Precondition,
    /// No finalizer is put on.
    Finalizer,
}

fn slot(world: &World, at: usize) -> Slot {
    world.slots[at]
}

/// What the operator sees of a name.
fn seen(world: &World, at: usize) -> Slot {
    match world.late {
        Some((late, shown)) if late == at => shown,
        _ => slot(world, at),
    }
}

/// The next request of a teardown: the agent, its proxy, the walls, the finalizer.
fn tear_down(world: &World, at: usize, sandbox: Sandbox, without: Without) -> Option<World> {
    let (mut next, live, observed) = (*world, slot(world, at), seen(world, at));
    let is_meant = |child: &Option<Child>| child.is_some_and(|child| child.of == sandbox.uid);
    if !sandbox.held {
        return None;
    }
    // Pods are read from the server itself.
    if let Some(agent) = live.agent.filter(|_| is_meant(&live.agent) && without != Without::Order) {
        next.slots[at].agent = Some(Child { ending: true, ..agent });
        return (!agent.ending).then_some(next);
    }
    if let Some(proxy) = live.proxy.filter(|_| is_meant(&live.proxy)) {
        next.slots[at].proxy = Some(Child { ending: true, ..proxy });
        return (!proxy.ending).then_some(next);
    }
    if is_meant(&observed.wall) && (is_meant(&live.wall) || without == Without::Precondition) {
        next.slots[at].wall = None;
        return (live.wall.is_some()).then_some(next);
    }
    // The patch names the version.
    if live.sandbox.is_none_or(|own| own.uid != sandbox.uid || own.version != sandbox.version) {
        return None;
    }
    next.slots[at].sandbox = None;
    Some(next)
}

/// The operator's next request about a name, carried out; none if there is nothing to do.
fn operate(world: &World, at: usize, without: Without) -> Option<World> {
    let mut next = *world;
    let live = slot(world, at);
    let observed = seen(world, at);
    let set = |next: &mut World, change: &dyn Fn(&mut Slot)| change(&mut next.slots[at]);
    let (sandbox, pass) = match world.passes[at] {
        Pass::Idle => (observed.sandbox?, Pass::Idle),
        Pass::Sealed(sandbox) | Pass::Supplied(sandbox) => (sandbox, world.passes[at]),
    };
    let is_meant = |child: &Option<Child>| child.is_some_and(|child| child.of == sandbox.uid);
    if pass == Pass::Idle && sandbox.ending {
        return tear_down(world, at, sandbox, without);
    }
    match pass {
        Pass::Idle if !sandbox.held && without != Without::Finalizer => {
            // The patch names the version.
            if live.sandbox != Some(sandbox) {
                return None;
            }
            let held = Sandbox { held: true, version: sandbox.version + 1, ..sandbox };
            set(&mut next, &|slot| slot.sandbox = Some(held));
            Some(next)
        }
        Pass::Idle => {
            let settled = is_meant(&observed.wall)
                && is_meant(&observed.proxy)
                && observed.agent.is_some_and(|a| a.of == sandbox.uid && a.spec == sandbox.spec && !a.ending);
            if settled {
                return None;
            }
            if without != Without::Seal && !is_meant(&live.wall) {
                // A name that is taken is a conflict.
                if live.wall.is_some() {
                    return None;
                }
                let wall = Child { of: sandbox.uid, spec: 0, ending: false };
                set(&mut next, &|slot| slot.wall = Some(wall));
            }
            next.passes[at] = Pass::Sealed(sandbox);
            Some(next)
        }
        Pass::Sealed(_) => {
            next.passes[at] = Pass::Supplied(sandbox);
            match live.proxy {
                None => {
                    let proxy = Child { of: sandbox.uid, spec: 0, ending: false };
                    set(&mut next, &|slot| slot.proxy = Some(proxy));
                }
                Some(proxy) if proxy.of != sandbox.uid || proxy.ending => next.passes[at] = Pass::Idle,
                Some(_) => {}
            }
            Some(next)
        }
        Pass::Supplied(_) => {
            next.passes[at] = Pass::Idle;
            match (observed.agent, live.agent) {
                (_, None) => {
                    let agent = Child { of: sandbox.uid, spec: sandbox.spec, ending: false };
                    set(&mut next, &|slot| slot.agent = Some(agent));
                }
                // Another spec: it is replaced. The deletion names the one that was seen.
                (Some(shown), Some(agent))
                    if is_meant(&Some(shown))
                        && shown.spec != sandbox.spec
                        && (agent == shown || without == Without::Precondition) =>
                {
                    next.harm = live.sandbox.is_some_and(|own| (own.uid, own.spec) == (agent.of, agent.spec));
                    set(&mut next, &|slot| slot.agent = Some(Child { ending: true, ..agent }));
                }
                _ => {}
            }
            Some(next)
        }
    }
}

/// What the cluster does by itself: pods end, and what has no owner is collected. Walls are held by a finalizer until no agent
/// is behind them.
fn cluster(world: &World, at: usize) -> Vec<World> {
    let mut all = Vec::new();
    let live = slot(world, at);
    let is_orphan = |child: Option<Child>| {
        child.is_some_and(|child| live.sandbox.is_none_or(|sandbox| sandbox.uid != child.of))
    };
    let mut push = |change: &dyn Fn(&mut Slot)| {
        let mut next = *world;
        change(&mut next.slots[at]);
        all.push(next);
    };
    if live.agent.is_some_and(|agent| agent.ending) {
        push(&|slot| slot.agent = None);
    } else if is_orphan(live.agent) {
        push(&|slot| slot.agent = slot.agent.map(|agent| Child { ending: true, ..agent }));
    }
    if live.proxy.is_some_and(|proxy| proxy.ending) || is_orphan(live.proxy) {
        push(&|slot| slot.proxy = None);
    }
    let behind = live.agent.is_some_and(|agent| live.wall.is_some_and(|wall| wall.of == agent.of));
    if is_orphan(live.wall) && !behind {
        push(&|slot| slot.wall = None);
    }
    all
}

/// What users do: an edit, a deletion, a new sandbox under an old name.
fn users(world: &World, at: usize) -> Vec<World> {
    let mut all = Vec::new();
    if world.deeds == 0 {
        return all;
    }
    let mut push = |sandbox: Option<Sandbox>| {
        let mut next = World { deeds: world.deeds - 1, ..*world };
        next.slots[at].sandbox = sandbox;
        all.push(next);
    };
    match slot(world, at).sandbox {
        None => push(Some(Sandbox { uid: 2, spec: 0, version: 0, held: false, ending: false })),
        Some(sandbox) if !sandbox.ending => {
            let version = sandbox.version + 1;
            push(Some(Sandbox { spec: 1, version, ..sandbox }));
            push(sandbox.held.then_some(Sandbox { ending: true, version, ..sandbox }));
        }
        Some(_) => {}
    }
    all
}

/// Everything that can happen next; what the system does by itself, and what it suffers.
fn steps(world: &World, without: Without) -> (Vec<World>, Vec<World>) {
    let (mut own, mut suffered) = (Vec::new(), Vec::new());
    for at in [0, 1] {
        own.extend(operate(world, at, without));
        own.extend(cluster(world, at));
        suffered.extend(users(world, at));
        if world.stale_reads > 0 {
            let late = Some((at, slot(world, at)));
            suffered.push(World { late, stale_reads: world.stale_reads - 1, ..*world });
        }
    }
    if world.late.is_some() {
        own.push(World { late: None, ..*world });
    }
    if world.crashes > 0 && (world.passes != [Pass::Idle; 2] || world.late.is_some()) {
        let crashes = world.crashes - 1;
        suffered.push(World { passes: [Pass::Idle; 2], late: None, crashes, ..*world });
    }
    (own, suffered)
}

/// What is broken in a state.
fn broken(world: &World) -> Option<&'static str> {
    if world.harm {
        return Some("I6: an agent that was as its spec says was ended");
    }
    for slot in world.slots {
        let walled = |pod: Child| slot.wall.is_some_and(|wall| wall.of == pod.of);
        if slot.agent.is_some_and(|agent| !walled(agent)) {
            return Some("I1: an agent stands without its wall");
        }
    }
    None
}

/// What is broken in a state in which nothing happens any more by itself.
fn unsettled(world: &World) -> Option<&'static str> {
    for slot in world.slots {
        let Some(sandbox) = slot.sandbox else {
            if slot != EMPTY {
                return Some("I4: something is left of a sandbox that is gone");
            }
            continue;
        };
        let is_right = slot
            .agent
            .is_some_and(|agent| agent == Child { of: sandbox.uid, spec: sandbox.spec, ending: false });
        if sandbox.ending || !is_right {
            return Some("a sandbox does not come to what its spec says");
        }
    }
    None
}

/// Explores everything; answers with the number of states and of those in which nothing happens any more.
fn explore(without: Without) -> Result<(usize, usize), (&'static str, World)> {
    let mut first = BUDGET;
    for slot in &mut first.slots {
        slot.sandbox = Some(Sandbox { uid: 1, spec: 0, version: 0, held: false, ending: false });
    }
    let (mut known, mut queue) = (HashSet::from([first]), VecDeque::from([first]));
    let mut before: HashMap<World, Vec<World>> = HashMap::new();
    let mut rest = Vec::new();
    while let Some(world) = queue.pop_front() {
        if let Some(what) = broken(&world) {
            return Err((what, world));
        }
        let (own, suffered) = steps(&world, without);
        if own.is_empty() {
            if let Some(what) = unsettled(&world) {
                return Err((what, world));
            }
            rest.push(world);
        }
        for next in &own {
            before.entry(*next).or_default().push(world);
        }
        queue.extend(own.into_iter().chain(suffered).filter(|next| known.insert(*next)));
    }
    // From each state there is a way to rest without anybody's help.
    let (mut reach, mut queue): (HashSet<World>, Vec<World>) = (rest.iter().copied().collect(), rest.clone());
    while let Some(world) = queue.pop() {
        let into = before.get(&world).into_iter().flatten();
        queue.extend(into.filter(|world| reach.insert(**world)).copied());
    }
    match known.iter().find(|world| !reach.contains(world)) {
        Some(stuck) => Err(("the system turns in a circle", *stuck)),
        None => Ok((known.len(), rest.len())),
    }
}

#[test]
fn o_r30_no_order_of_steps_crashes_stale_reads_and_deeds_breaks_the_model() {
    let explored = explore(Without::Nothing);
    assert_eq!(explored, Ok((STATES, RESTS)));
}

#[test]
fn o_r30_each_rule_of_the_model_is_needed() {
    let rules = [Without::Seal, Without::Order, Without::Precondition, Without::Finalizer];
    let found: BTreeMap<String, &str> =
        rules.into_iter().filter_map(|rule| Some((format!("{rule:?}"), explore(rule).err()?.0))).collect();
    assert_eq!(found.len(), rules.len(), "{found:?}");
}
