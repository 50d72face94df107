//! What of a pack is reachable from one commit, and which of its contents are left out. Nothing is written here.

use std::collections::{HashSet, VecDeque};

use gix_hash::{Kind as HashKind, ObjectId};
use gix_object::{CommitRef, Kind, TagRef, TreeRefIter};

use super::Clock;
use super::pack::{Pack, damaged};
use super::sparse::Sparse;
use crate::exclusion::{Exclusion, Verdict};
use crate::limits::Limits;
use crate::path::RelativePath;
use crate::refusal::{Error, Reason, Refusal};

/// Bytes of all paths together: they are in memory.
const PATHS_BYTES_MAX: u64 = 48 << 20;
/// Tags that may name one another until one names a commit.
const TAGS_MAX: usize = 8;

/// What a tree's entry is, other than a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    File,
    Executable,
    Symlink,
    /// The commit of another repository.
    Submodule,
}

impl Mode {
    /// As the index has it.
    pub fn bits(self) -> u32 {
        match self {
            Self::File => 0o100_644,
            Self::Executable => 0o100_755,
            Self::Symlink => 0o120_000,
            Self::Submodule => 0o160_000,
        }
    }
}

/// An entry of the commit that is checked out.
pub struct Leaf {
    pub path: RelativePath,
    pub mode: Mode,
    pub id: ObjectId,
    pub verdict: Verdict,
}

/// What was found.
pub struct Walked {
    /// The commit itself, where a tag named it.
    pub commit: ObjectId,
    /// When it was made, in seconds since 1970.
    pub time: u64,
    /// Its leaves, sorted as the index has them.
    pub leaves: Vec<Leaf>,
    /// Every object that the agent gets: commits, trees, and contents that no name leaves out.
    pub kept: Vec<(ObjectId, Kind)>,
    /// Commits whose parents were not sent.
    pub shallow: Vec<ObjectId>,
    /// Whether there are contents that the agent does not get.
    pub lacks: bool,
    /// What git is not to check out.
    pub sparse: String,
}

/// Walks from a commit, or from a tag that names one.
pub fn walk(
    pack: &mut Pack,
    wanted: ObjectId,
    exclusion: &Exclusion,
    limits: Limits,
    clock: Clock<'_>,
) -> Result<Walked, Error> {
    let commit = peeled(pack, wanted)?;
    let (commits, shallow, time) = history(pack, commit, limits, clock)?;
    let mut trees = Trees {
        pack,
        exclusion,
        limits,
        clock,
        seen: HashSet::new(),
        entries: 0,
        bytes: 0,
        sparse: Sparse::new(exclusion)?,
        leaves: Vec::new(),
        at_tip: HashSet::new(),
        taken: HashSet::new(),
        left_out: HashSet::new(),
        trees: HashSet::new(),
    };
    for (number, (_, tree)) in commits.iter().enumerate() {
        trees.tree(*tree, number == 0)?;
    }
    let mut kept: Vec<_> = commits.iter().map(|(commit, _)| (*commit, Kind::Commit)).collect();
    kept.extend(trees.trees.iter().map(|tree| (*tree, Kind::Tree)));
    // A content that has a name of its own in the tree is there to be read. One of the past alone is kept only if nobody ever
    // gave it a name that is left out.
    let is_kept = |id: &ObjectId| trees.at_tip.contains(id) || !trees.left_out.contains(id);
    let named: HashSet<_> = trees.at_tip.union(&trees.taken).copied().collect();
    kept.extend(named.iter().filter(|id| is_kept(id)).map(|id| (*id, Kind::Blob)));
    let lacks = trees.left_out.iter().any(|id| !trees.at_tip.contains(id));
    let mut leaves = trees.leaves;
    leaves.sort_by(|one: &Leaf, other| one.path.as_str().as_bytes().cmp(other.path.as_str().as_bytes()));
    Ok(Walked { commit, time, leaves, kept, shallow, lacks, sparse: trees.sparse.text() })
}

fn peeled(pack: &mut Pack, wanted: ObjectId) -> Result<ObjectId, Error> {
    let refused = |reason| Error::from(Refusal::new(wanted.to_string().as_bytes(), reason));
    let mut id = wanted;
    for _ in 0..=TAGS_MAX {
        match pack.kind(&id) {
            Some(Kind::Commit) => return Ok(id),
            Some(Kind::Tag) => {
                let tag = pack.get(&id, Kind::Tag, &id.to_string())?;
                id = TagRef::from_bytes(&tag, HashKind::Sha1).map_err(damaged)?.target();
            }
            Some(Kind::Tree | Kind::Blob) => return Err(refused(Reason::WrongKind)),
            None => return Err(refused(Reason::Missing)),
        }
    }
    Err(refused(Reason::Malformed))
}

type History = (Vec<(ObjectId, ObjectId)>, Vec<ObjectId>, u64);

/// Every commit that is reachable, the first one first, with its tree; those whose parents are not there; when the first was made.
fn history(pack: &mut Pack, first: ObjectId, limits: Limits, clock: Clock<'_>) -> Result<History, Error> {
    let (mut commits, mut shallow, mut time) = (Vec::new(), Vec::new(), None);
    let (mut queue, mut seen) = (VecDeque::from([first]), HashSet::from([first]));
    while let Some(id) = queue.pop_front() {
        clock()?;
        let refused = |reason| Error::from(Refusal::new(id.to_string().as_bytes(), reason));
        let bytes = pack.get(&id, Kind::Commit, &id.to_string())?;
        let commit = CommitRef::from_bytes(&bytes, HashKind::Sha1).map_err(damaged)?;
        if time.is_none() {
            let made = commit.time().map_err(damaged)?.seconds;
            time = Some(u64::try_from(made).unwrap_or_default());
        }
        commits.push((id, commit.tree()));
        let parents: Vec<ObjectId> = commit.parents().collect();
        if parents.iter().any(|parent| pack.kind(parent).is_none()) {
            shallow.push(id);
            continue;
        }
        queue.extend(parents.into_iter().filter(|parent| seen.insert(*parent)));
        if seen.len() as u64 > limits.entries_max {
            return Err(refused(Reason::TooMany(limits.entries_max)));
        }
    }
    Ok((commits, shallow, time.unwrap_or_default()))
}

struct Trees<'a> {
    pack: &'a mut Pack,
    exclusion: &'a Exclusion,
    limits: Limits,
    clock: Clock<'a>,
    /// Trees by the folder that they were seen at: the same one may be at many.
    seen: HashSet<(ObjectId, String)>,
    entries: u64,
    bytes: u64,
    sparse: Sparse,
    leaves: Vec<Leaf>,
    /// Contents by what the names that lead to them say.
    at_tip: HashSet<ObjectId>,
    taken: HashSet<ObjectId>,
    left_out: HashSet<ObjectId>,
    trees: HashSet<ObjectId>,
}

impl Trees<'_> {
    /// Every entry of a commit's tree.
    fn tree(&mut self, root: ObjectId, is_tip: bool) -> Result<(), Error> {
        let mut waiting = vec![(root, String::new())];
        // A tree of trees that name one another many times has few objects and no end of paths: those are counted.
        while let Some((id, folder)) = waiting.pop() {
            (self.clock)()?;
            if !self.seen.insert((id, folder.clone())) {
                continue;
            }
            self.trees.insert(id);
            let bytes =
                self.pack.get(&id, Kind::Tree, if folder.is_empty() { "the tree" } else { &folder })?;
            let (mut last, mut again): (Option<Vec<u8>>, Vec<u8>) = (None, Vec::with_capacity(bytes.len()));
            for entry in TreeRefIter::from_bytes(&bytes, HashKind::Sha1) {
                let entry = entry.map_err(damaged)?;
                let mut digits = [0; 6];
                let mode: &[u8] = entry.mode.as_bytes(&mut digits);
                again.extend([mode, b" ", entry.filename, b"\0", entry.oid.as_bytes()].concat());
                let order = ordered(entry.filename, mode == FOLDER);
                let path = self.path(&folder, entry.filename)?;
                if last.as_ref().is_some_and(|last| *last >= order) {
                    return Err(Refusal::new(path.as_str().as_bytes(), Reason::Malformed).into());
                }
                last = Some(order);
                match mode {
                    FOLDER => waiting.push((entry.oid.to_owned(), path.as_str().to_owned())),
                    _ => self.leaf(path, mode, entry.oid.to_owned(), is_tip)?,
                }
            }
            // The library reads more modes than there are, and each as one that there is.
            if again != bytes {
                return Err(Refusal::new(folder.as_bytes(), Reason::UnknownMode).into());
            }
        }
        Ok(())
    }

    /// A path, judged as every path of a tree is, whatever becomes of it.
    fn path(&mut self, folder: &str, name: &[u8]) -> Result<RelativePath, Error> {
        let mut path = folder.as_bytes().to_vec();
        if !folder.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        let refused = |reason| Error::from(Refusal::new(&path, reason));
        self.entries += 1;
        if self.entries > self.limits.entries_max {
            return Err(refused(Reason::TooMany(self.limits.entries_max)));
        }
        self.bytes = self.bytes.saturating_add(path.len() as u64);
        if self.bytes > PATHS_BYTES_MAX {
            return Err(refused(Reason::PathsTooLong(PATHS_BYTES_MAX)));
        }
        // A name of git is one name, and never none.
        match name {
            _ if name.contains(&b'/') => return Err(refused(Reason::Malformed)),
            b"" | b"." => return Err(refused(Reason::EmptySegment)),
            _ => {}
        }
        let parsed = RelativePath::parse(&path)?;
        if parsed.depth() > self.limits.depth_max {
            return Err(refused(Reason::TooDeep(self.limits.depth_max)));
        }
        if parsed.is_in_git_folder() {
            return Err(refused(Reason::GitFolder));
        }
        Ok(parsed)
    }

    fn leaf(&mut self, path: RelativePath, mode: &[u8], id: ObjectId, is_tip: bool) -> Result<(), Error> {
        let refused = |reason| Error::from(Refusal::new(path.as_str().as_bytes(), reason));
        let mode = match mode {
            // What git wrote before 2005.
            b"100644" | b"100664" => Mode::File,
            b"100755" => Mode::Executable,
            b"120000" => Mode::Symlink,
            b"160000" => Mode::Submodule,
            _ => return Err(refused(Reason::UnknownMode)),
        };
        let verdict = self.exclusion.verdict(&path, mode == Mode::Submodule);
        self.sparse.judge(&path, verdict);
        if mode != Mode::Submodule {
            match self.pack.kind(&id) {
                Some(Kind::Blob) => {}
                Some(_) => return Err(refused(Reason::WrongKind)),
                None => return Err(refused(Reason::Missing)),
            }
            match verdict {
                Verdict::Taken if is_tip => self.at_tip.insert(id),
                Verdict::Taken => self.taken.insert(id),
                Verdict::LeftOutByDefault | Verdict::Excluded => self.left_out.insert(id),
            };
        }
        if is_tip {
            self.leaves.push(Leaf { path, mode, id, verdict });
        }
        Ok(())
    }
}

/// With a zero before it, it could be what git takes for a submodule: the library reads both as one.
const FOLDER: &[u8] = b"40000";

/// What entries of a tree are sorted by: a folder's name as if a slash followed.
fn ordered(name: &[u8], is_folder: bool) -> Vec<u8> {
    let mut order = name.to_vec();
    if is_folder {
        order.push(b'/');
    }
    order
}
