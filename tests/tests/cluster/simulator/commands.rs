//! What is asked of both servers: commands that say symbolically which object, which version and which UID they mean, since
//! those differ between the two.

use std::collections::BTreeMap;

use agentsandbox_sim::faults::hash;
use agentsandbox_sim::kinds::{ACCOUNTS, CONFIG_MAPS, Kind, PODS, POLICIES, SANDBOXES, SECRETS, SERVICES};
use agentsandbox_sim::merge::merge;
use agentsandbox_sim::store::Part;
use serde_json::{Value, json};

use super::server::Server;

/// The group of the copied CRD.
pub const GROUP: &str = "simulator.agentsandbox.test";
/// The object whose creation ends a sequence, so that a watch has an end.
pub const LAST: &str = "zz-last";
/// The owner of what has one. It is never deleted: how soon its dependents would follow it is the garbage collector's. It comes
/// after whatever others put into each namespace.
pub const ANCHOR: &str = "zzz-anchor";
/// What stands in a command for the anchor's UID.
pub const ANCHOR_UID: &str = "@anchor";
/// A label of every object of a sequence; others put theirs into each namespace.
pub const OURS: &str = "o-r31";
/// The kinds that the operator and its users write.
pub const KINDS: [&Kind; 7] = [&SANDBOXES, &CONFIG_MAPS, &POLICIES, &PODS, &SERVICES, &ACCOUNTS, &SECRETS];
const NAMES: [&str; 3] = ["a", "b", "c"];
const MANAGERS: [&str; 2] = ["one", "two"];

/// The copied CRD's group and version.
pub fn copy_version() -> String {
    format!("{GROUP}/v1alpha1")
}

/// Which version or UID of an object is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// It does not matter.
    Any,
    /// The one that was seen last.
    Latest,
    /// The version that was seen first of the object; a UID that nothing has.
    Other,
}

/// What is done.
#[derive(Clone, Debug)]
pub enum Verb {
    Create(Value),
    Get,
    /// Server-side apply; without a whole object it names the UID, as a repair does.
    Apply {
        manager: &'static str,
        force: bool,
        object: Value,
        uid: Which,
    },
    Merge {
        manager: &'static str,
        part: Part,
        patch: Value,
        version: Which,
        uid: Which,
    },
    /// The object as it was seen last, or else this one, with a change.
    Replace {
        manager: &'static str,
        object: Value,
        change: Value,
        version: Which,
    },
    Delete {
        uid: Which,
        version: Which,
    },
    List {
        limit: usize,
        tier: bool,
    },
    /// The next page of the last list of the kind that had one.
    Next {
        limit: usize,
        tier: bool,
    },
}

/// A verb and its object.
#[derive(Clone, Debug)]
pub struct Command {
    pub verb: Verb,
    pub kind: &'static Kind,
    pub name: &'static str,
}

impl Command {
    /// All objects of a kind.
    pub fn list(kind: &'static Kind) -> Self {
        Self { verb: Verb::List { limit: 0, tier: false }, kind, name: "" }
    }
}

/// A watch from a version that was seen.
#[derive(Clone, Debug)]
pub struct Watched {
    pub kind: &'static Kind,
    /// Only what has the label, which comes and goes.
    pub tier: bool,
    /// Only metadata.
    pub metadata: bool,
    /// From a version that is forgotten.
    pub forgotten: bool,
}

/// Each way to watch each kind.
pub fn watches() -> Vec<Watched> {
    let ways = [(false, false), (true, false), (true, true)];
    let of = |kind: &&'static Kind| {
        let kind = *kind;
        ways.map(|(tier, metadata)| Watched { kind, tier, metadata, forgotten: false })
    };
    // Only of this kind it is known that the server began to keep its events later than with the first version.
    let forgotten = Watched { kind: &SANDBOXES, tier: false, metadata: false, forgotten: true };
    KINDS.iter().flat_map(of).chain([forgotten]).collect()
}

/// What is drawn follows from a seed.
pub struct Draw(u64, u64);

impl Draw {
    pub const fn new(seed: u64) -> Self {
        Self(seed, 0)
    }

    /// A number below `bound`.
    fn below(&mut self, bound: usize) -> usize {
        self.1 += 1;
        usize::try_from(hash(self.0, &format!("draw {}", self.1)) >> 8).unwrap() % bound
    }

    fn of<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())].clone()
    }

    fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }
}

/// An object of each kind with each default spelled out: the simulated server has none.
pub async fn bases(real: &mut Server) -> BTreeMap<&'static str, Value> {
    let mut bases = BTreeMap::new();
    for kind in KINDS {
        bases.insert(kind.plural, real.completed(kind, &base(kind)).await);
    }
    bases
}

fn base(kind: &Kind) -> Value {
    let mut object = match kind.plural {
        "agentsandboxes" => json!({"spec": {"agent": {"image": "example.test/agent:1"}}}),
        "networkpolicies" => {
            json!({"spec": {"podSelector": {"matchLabels": {"app": "a"}}, "policyTypes": ["Egress"]}})
        }
        "services" => json!({"spec": {"ports": [{"name": "http", "port": 80}]}}),
        "secrets" => json!({"data": {"k0": "MA=="}}),
        "configmaps" => json!({"data": {"k0": "0"}}),
        "pods" => json!({"spec": {
            "schedulerName": "nobody", "serviceAccountName": ANCHOR, "automountServiceAccountToken": false,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "c", "image": "example.test/c:1",
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
        }}),
        _ => json!({}),
    };
    object["metadata"]["labels"] = json!({OURS: "yes"});
    object
}

/// What of an object of this kind changes, each part of it or not.
fn fields(kind: &Kind, draw: &mut Draw) -> Value {
    let mut fields = json!({});
    if draw.one_in(2) {
        fields["metadata"]["labels"]["tier"] = json!(draw.of(&["1", "2"]));
    }
    if draw.one_in(3) {
        fields["metadata"]["annotations"]["note"] = json!(draw.of(&["x", "y"]));
    }
    match kind.plural {
        "configmaps" | "secrets" => {
            for key in ["k1", "k2"] {
                if draw.one_in(2) {
                    fields["data"][key] = json!(draw.of(&["MQ==", "Mg=="]));
                }
            }
        }
        "serviceaccounts" if draw.one_in(2) => {
            fields["automountServiceAccountToken"] = json!(draw.one_in(2));
        }
        "networkpolicies" => {
            if draw.one_in(2) {
                let app = draw.of(&["a", "b"]);
                fields["spec"]["podSelector"] =
                    draw.of(&[json!({"matchLabels": {"app": app}}), json!({"matchLabels": {"other": app}})]);
            }
            if draw.one_in(2) {
                let port = json!([{"ports": [{"port": draw.of(&[80, 81]), "protocol": "TCP"}]}]);
                fields["spec"]["egress"] = draw.of(&[port, json!([{}]), json!([{}])]);
            }
        }
        "services" if draw.one_in(2) => {
            fields["spec"]["selector"] =
                draw.of(&[json!({"a": "1"}), json!({"b": "1"}), json!({"a": "1", "b": "2"})]);
        }
        "agentsandboxes" => {
            if draw.one_in(2) {
                fields["spec"]["agent"]["args"] = draw.of(&[json!(["a"]), json!(["b", "c"])]);
            }
            if draw.one_in(2) {
                let host = draw.of(&["one.test", "two.test"]);
                fields["spec"]["egress"]["allow"] = json!([{"host": host}]);
            }
            if draw.one_in(2) {
                let variable = |name: &str, value: &str| json!({"name": name, "value": value});
                let (one, two) = (variable("A", draw.of(&["1", "2"])), variable("B", "1"));
                fields["spec"]["agent"]["env"] = draw.of(&[json!([one]), json!([two]), json!([one, two])]);
            }
        }
        _ => {}
    }
    fields
}

/// A merge patch of what changes, with parts taken off.
fn patch(kind: &Kind, draw: &mut Draw) -> Value {
    let mut patch = fields(kind, draw);
    match draw.below(8) {
        0 => patch["metadata"]["labels"]["tier"] = Value::Null,
        1 => patch["metadata"]["annotations"] = Value::Null,
        2 if ["configmaps", "secrets"].contains(&kind.plural) => patch["data"]["k1"] = Value::Null,
        2 if kind.plural == "networkpolicies" => patch["spec"]["egress"] = Value::Null,
        _ => {}
    }
    match draw.below(9) {
        0 | 1 => patch["metadata"]["finalizers"] = json!(["o-r31.test/hold"]),
        2 => patch["metadata"]["finalizers"] = draw.of(&[Value::Null, json!([])]),
        3 => patch["metadata"]["ownerReferences"] = draw.of(&[owners(), Value::Null]),
        _ => {}
    }
    patch
}

fn owners() -> Value {
    json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": ANCHOR, "uid": ANCHOR_UID, "controller": true, "blockOwnerDeletion": false}])
}

/// A patch of a status.
fn status(kind: &Kind, draw: &mut Draw) -> Value {
    let mut status = match kind.plural {
        "pods" => json!({"phase": draw.of(&["Pending", "Running"]), "message": draw.of(&["m", "n"])}),
        _ => json!({"observedGeneration": draw.below(4), "className": draw.of(&["x", "y"])}),
    };
    if kind.plural == "agentsandboxes" && draw.one_in(3) {
        status["conditions"] = draw.of(&[Value::Null, json!([])]);
    }
    let mut patch = json!({"status": status});
    if draw.one_in(3) && kind.plural == "agentsandboxes" {
        // Of no effect there.
        merge(&mut patch, &fields(kind, draw));
    }
    patch
}

fn which(draw: &mut Draw) -> Which {
    draw.of(&[Which::Any, Which::Any, Which::Latest, Which::Latest, Which::Other])
}

/// The commands that a seed makes.
pub fn sequence(draw: &mut Draw, bases: &BTreeMap<&'static str, Value>, length: usize) -> Vec<Command> {
    let mut commands: Vec<Command> = (0..length).map(|_| command(draw, bases)).collect();
    // In the end a list of each kind in pages, with a write between them, which is also where its watches end.
    commands.extend(KINDS.iter().flat_map(|kind| {
        let mut object = bases[kind.plural].clone();
        object["metadata"]["labels"]["tier"] = json!("1");
        let next = || Verb::Next { limit: 1, tier: false };
        let verbs = [Verb::List { limit: 1, tier: false }, Verb::Create(object), next(), next()];
        verbs.map(|verb| Command { verb, kind, name: LAST })
    }));
    commands
}

fn command(draw: &mut Draw, bases: &BTreeMap<&'static str, Value>) -> Command {
    let kind = draw.of(&KINDS);
    let name = draw.of(&NAMES);
    let manager = draw.of(&MANAGERS);
    let whole = |draw: &mut Draw| {
        let mut object = bases[kind.plural].clone();
        merge(&mut object, &fields(kind, draw));
        object
    };
    let verb = match draw.below(100) {
        0..=15 => Verb::Create(whole(draw)),
        16..=19 => Verb::Get,
        20..=37 => Verb::Apply { manager, force: draw.one_in(2), object: whole(draw), uid: Which::Any },
        38..=43 => {
            let uid = draw.of(&[Which::Latest, Which::Latest, Which::Other]);
            // Its manager applies nothing else: whoever says a part only takes off the rest of what is theirs.
            Verb::Apply { manager: "three", force: true, object: fields(&PODS, draw), uid }
        }
        44..=61 => {
            let (version, uid) = (which(draw), draw.of(&[Which::Any, Which::Any, Which::Latest]));
            Verb::Merge { manager, part: Part::Main, patch: patch(kind, draw), version, uid }
        }
        62..=69 if [&SANDBOXES, &PODS].contains(&kind) => {
            let (version, patch) = (which(draw), status(kind, draw));
            Verb::Merge { manager, part: Part::Status, patch, version, uid: Which::Any }
        }
        62..=78 => {
            let (object, change) = (bases[kind.plural].clone(), patch(kind, draw));
            Verb::Replace { manager, object, change, version: which(draw) }
        }
        79..=89 => Verb::Delete {
            uid: which(draw),
            version: draw.of(&[Which::Any, Which::Any, Which::Latest, Which::Other]),
        },
        90..=94 => Verb::List { limit: draw.below(3), tier: draw.one_in(3) },
        _ => Verb::Next { limit: 1 + draw.below(2), tier: false },
    };
    Command { verb, kind, name }
}
