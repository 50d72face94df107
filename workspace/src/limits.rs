//! How much is taken. There is no way to say "without limit".

/// Bounds on one tree and on the archive that it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries of the archive, and entries of the tree with every folder on the way to them.
    pub entries_max: u64,
    /// Bytes that the archive unpacks to, with what is left out, and bytes of the tree's files.
    pub bytes_max: u64,
    /// Bytes of one file.
    pub file_bytes_max: u64,
    /// Names in one path: at most [`DEPTH_MAX`], whatever stands here.
    pub depth_max: usize,
    /// Bytes that come out for each byte that goes in, above the first [`RATIO_FREE_BYTES`].
    pub ratio_max: u64,
}

/// What may come out of an archive before its ratio counts: a small file of one repeated line is no attack.
pub const RATIO_FREE_BYTES: u64 = 16 << 20;

/// Bytes of one name: what Linux file systems take (`NAME_MAX`).
pub const NAME_BYTES_MAX: usize = 255;

/// Bytes of one path. Linux takes 4,096 (`PATH_MAX`), with the folder that the tree stands in: this leaves it half.
pub const PATH_BYTES_MAX: usize = 2048;

/// Names in one path that nobody may exceed: what is taken away is so folder within folder, with two descriptors for each,
/// and a process has 1,024 of them by default.
pub const DEPTH_MAX: usize = 256;

/// Bytes between two entries: headers with their long names and extensions. They are read into memory.
pub const HEAD_BYTES_MAX: u64 = 1 << 20;

/// The window of zstd: what RFC 8878 (3.1.1.1.2) asks every decoder to take, and level 19 writes.
pub const ZSTD_WINDOW_BYTES_MAX: u64 = 8 << 20;

impl Default for Limits {
    /// A large repository, many times over.
    fn default() -> Self {
        Self {
            // The names' index takes about 40 MB for so many.
            entries_max: 1_000_000,
            bytes_max: 16 << 30,
            file_bytes_max: 4 << 30,
            depth_max: 64,
            // deflate reaches 1,032; what people pack stays below 100.
            ratio_max: 200,
        }
    }
}
