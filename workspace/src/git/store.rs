//! The `.git` folder that the agent gets: written anew, with nothing in it that the server wrote but objects.
//!
//! It holds the real commits and trees, so that what the agent commits can be pushed, and no content that is left out. git is told
//! that those exist elsewhere: its name for that is a promisor, and the one that is named here is nowhere, so that asking for such a
//! content fails at once and fetches nothing. There is no hook, and no setting that runs a program.

use std::fmt::Write as _;
use std::io::{self, Read};

use flate2::Compression;
use flate2::write::ZlibEncoder;
use gix_hash::{Hasher, Kind as HashKind, ObjectId};
use gix_object::Kind;
use gix_pack::data::entry::Header;
use gix_pack::data::{Version, header};

use super::index;
use super::pack::Pack;
use super::walk::Walked;
use super::{Clock, Origin};
use crate::refusal::{Error, Reason, Refusal};
use crate::tree::Tree;

/// Where the agent's pack is, without its ending: its name says nothing.
const PACK: &str = ".git/objects/pack/pack-0000000000000000000000000000000000000000";

/// Writes all of it.
pub fn write(
    tree: &mut Tree,
    pack: &mut Pack,
    walked: &Walked,
    origin: &Origin<'_>,
    clock: Clock<'_>,
) -> Result<(), Error> {
    // git takes a folder for a repository if these are there.
    tree.own_folder(".git/objects/info")?;
    tree.own_folder(".git/refs/heads")?;
    let table = objects(tree, pack, walked, clock)?;
    tree.own(&format!("{PACK}.idx"), &mut &*table)?;
    if walked.lacks {
        tree.own(&format!("{PACK}.promisor"), &mut io::empty())?;
    }
    let texts = [
        (".git/HEAD", head(walked, origin)),
        (".git/config", config(walked, origin)),
        (".git/info/sparse-checkout", walked.sparse.clone()),
        (".git/packed-refs", refs(walked, origin)),
        (".git/shallow", walked.shallow.iter().map(|id| format!("{id}\n")).collect()),
    ];
    for (path, text) in texts.iter().filter(|(_, text)| !text.is_empty()) {
        tree.own(path, &mut text.as_bytes())?;
    }
    // The last: what git finds older than it is taken as it is.
    tree.own(".git/index", &mut &*index::encode(walked, pack)?)?;
    Ok(())
}

fn head(walked: &Walked, origin: &Origin<'_>) -> String {
    match origin.branch {
        Some(branch) => format!("ref: refs/heads/{branch}\n"),
        None => format!("{}\n", walked.commit),
    }
}

fn refs(walked: &Walked, origin: &Origin<'_>) -> String {
    let Some(branch) = origin.branch else { return String::new() };
    let id = walked.commit;
    format!(
        "# pack-refs with: peeled fully-peeled sorted \n{id} refs/heads/{branch}\n{id} refs/remotes/origin/{branch}\n"
    )
}

/// Sizes and whole seconds are what the index knows of files: other numbers are the file system's of wherever the agent runs.
fn config(walked: &Walked, origin: &Origin<'_>) -> String {
    let mut text = format!(
        "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\tlogallrefupdates = true\n\tcheckStat = minimal\n\ttrustctime = false\n\tsparseCheckout = true\n\tsparseCheckoutCone = false\n[sparse]\n\texpectFilesOutsideOfPatterns = true\n[remote \"origin\"]\n\turl = {}\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n",
        origin.url
    );
    if let Some(branch) = origin.branch {
        // Writing to a String does not fail.
        let _ = write!(text, "[branch \"{branch}\"]\n\tremote = origin\n\tmerge = refs/heads/{branch}\n");
    }
    if walked.lacks {
        text.push_str(
            "[remote \"left-out\"]\n\turl = /dev/null/left-out\n\tpromisor = true\n\tskipFetchAll = true\n",
        );
    }
    text
}

/// Writes the pack, and returns its table.
fn objects(tree: &mut Tree, pack: &mut Pack, walked: &Walked, clock: Clock<'_>) -> Result<Vec<u8>, Error> {
    let count = u32::try_from(walked.kept.len())
        .map_err(|_| Refusal::new(b"the pack", Reason::TooMany(u32::MAX.into())))?;
    let head = header::encode(Version::V2, count);
    let mut hasher = gix_hash::hasher(HashKind::Sha1);
    hasher.update(&head);
    let mut kept = walked.kept.clone();
    kept.sort_by_key(|(id, _)| pack.offset(id));
    let mut out = Packing {
        pack,
        clock,
        left: kept.iter(),
        ready: head.to_vec(),
        given: 0,
        offset: head.len() as u64,
        hasher: Some(hasher),
        rows: Vec::with_capacity(walked.kept.len()),
        trailer: Vec::new(),
        failed: None,
    };
    let written = tree.own(&format!("{PACK}.pack"), &mut out);
    if let Some(failed) = out.failed {
        return Err(failed);
    }
    written?;
    table(out.rows, &out.trailer)
}

/// A pack as it is read, object by object.
struct Packing<'a> {
    pack: &'a mut Pack,
    clock: Clock<'a>,
    left: std::slice::Iter<'a, (ObjectId, Kind)>,
    ready: Vec<u8>,
    given: usize,
    offset: u64,
    hasher: Option<Hasher>,
    rows: Vec<(ObjectId, u32, u64)>,
    trailer: Vec<u8>,
    /// What went wrong: a reader's error has no place for it.
    failed: Option<Error>,
}

impl Packing<'_> {
    fn next(&mut self) -> Result<(), Error> {
        let unwritten = |error: io::Error| Error::Pack(error.to_string());
        (self.clock)()?;
        self.ready.clear();
        self.given = 0;
        let Some((id, kind)) = self.left.next() else {
            if let Some(hasher) = self.hasher.take() {
                self.trailer = hasher.try_finalize().map_err(super::pack::damaged)?.as_slice().to_vec();
                self.ready.extend_from_slice(&self.trailer);
            }
            return Ok(());
        };
        let head = match kind {
            Kind::Commit => Header::Commit,
            Kind::Tree => Header::Tree,
            Kind::Blob => Header::Blob,
            Kind::Tag => Header::Tag,
        };
        // Most are compressed already, as they came, and their ids are known to be those of what comes out.
        if let Some((content, size)) = self.pack.packed(id).zip(self.pack.size(id)) {
            head.write_to(size, &mut self.ready).map_err(unwritten)?;
            self.ready.extend_from_slice(content);
        } else {
            let object = self.pack.get(id, *kind, &id.to_string())?;
            head.write_to(object.len() as u64, &mut self.ready).map_err(unwritten)?;
            let mut encoder = ZlibEncoder::new(&mut self.ready, Compression::fast());
            io::Write::write_all(&mut encoder, &object).map_err(unwritten)?;
            encoder.finish().map_err(unwritten)?;
        }
        let mut crc = flate2::Crc::new();
        crc.update(&self.ready);
        self.rows.push((*id, crc.sum(), self.offset));
        self.offset += self.ready.len() as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&self.ready);
        }
        Ok(())
    }
}

impl Read for Packing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.given == self.ready.len()
            && let Err(error) = self.next()
        {
            self.failed = Some(error);
            return Err(io::Error::other("the pack cannot be written"));
        }
        let left = self.ready.get(self.given..).unwrap_or_default();
        let count = left.len().min(buffer.len());
        for (to, from) in buffer.iter_mut().zip(left) {
            *to = *from;
        }
        self.given += count;
        Ok(count)
    }
}

/// The table of a pack, version 2 (gitformat-pack(5)).
fn table(mut rows: Vec<(ObjectId, u32, u64)>, trailer: &[u8]) -> Result<Vec<u8>, Error> {
    rows.sort_unstable();
    let mut out = b"\xfftOc\0\0\0\x02".to_vec();
    let mut counts = [0_u32; 256];
    for (id, _, _) in &rows {
        for count in counts.iter_mut().skip(usize::from(id.first_byte())) {
            *count += 1;
        }
    }
    counts.iter().for_each(|count| out.extend_from_slice(&count.to_be_bytes()));
    rows.iter().for_each(|(id, _, _)| out.extend_from_slice(id.as_slice()));
    rows.iter().for_each(|(_, crc, _)| out.extend_from_slice(&crc.to_be_bytes()));
    let mut far = Vec::new();
    for (_, _, offset) in &rows {
        // What does not fit into 31 bits stands in a second list.
        let short = u32::try_from(*offset).ok().filter(|offset| *offset < FAR).unwrap_or_else(|| {
            far.push(*offset);
            FAR | u32::try_from(far.len() - 1).unwrap_or_default()
        });
        out.extend_from_slice(&short.to_be_bytes());
    }
    far.iter().for_each(|offset| out.extend_from_slice(&offset.to_be_bytes()));
    out.extend_from_slice(trailer);
    index::seal(out)
}

const FAR: u32 = 1 << 31;
