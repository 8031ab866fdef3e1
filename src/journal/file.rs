//! The journal's file.
//!
//! What can't be written leaves the file behind what it should say; it is then written anew as a
//! whole, since nobody knows what a failed sync has left on the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use tracing::{info, warn};

use super::record::{Record, encode};
use super::state::{Damage, MAGIC, Replay, State};
use crate::limits::JOURNAL_WASTE_LEN_MAX;

/// Why there is no journal; one line with the remedy.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("data directory {}: {source}; choose another one with --data-dir", dir.display())]
    Io { dir: PathBuf, source: io::Error },
    #[error("data directory {} is in use by another process; give each its own", dir.display())]
    Locked { dir: PathBuf },
}

/// An open journal, and what it says.
pub(super) struct JournalFile {
    dir: PathBuf,
    file: File,
    state: State,
    /// The file may lack what the state has.
    is_behind: bool,
    /// Not compacted again before it is so long, where that has failed.
    compaction_len_min: usize,
    _lock: Flock<File>,
}

impl JournalFile {
    /// Opens the journal of a folder, which is made where it is missing. What makes no sense is left out;
    /// the damaged file is kept beside it.
    pub(super) fn open(dir: &Path) -> Result<(Self, Replay), OpenError> {
        let failed = |source| OpenError::Io { dir: dir.to_owned(), source };
        make_folder(dir).map_err(failed)?;
        let lock = File::create(dir.join("lock")).map_err(failed)?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock)
            .map_err(|_| OpenError::Locked { dir: dir.to_owned() })?;
        let mut file = open_private(&dir.join(NAME)).map_err(failed)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed)?;
        let (state, unknown_count, damage) = State::read(&bytes);
        let mut journal = Self {
            dir: dir.to_owned(),
            file,
            state,
            is_behind: false,
            compaction_len_min: 0,
            _lock: lock,
        };
        if let Some(damage) = damage {
            journal.cut(damage);
        } else {
            journal.begin().map_err(failed)?;
        }
        let replay = journal.state.to_replay(unknown_count, damage);
        Ok((journal, replay))
    }

    /// Writes records and has them on the disk when it returns. They count also where that fails,
    /// and are then written by [`Self::catch_up`] or with the next ones.
    pub(super) fn commit(&mut self, records: Vec<Record>) -> io::Result<()> {
        let mut bytes = Vec::new();
        for record in records {
            let start = bytes.len();
            encode(&record, &mut bytes);
            self.state.apply(record, bytes.len() - start);
        }
        if self.is_behind {
            return self.catch_up();
        }
        self.is_behind = true;
        self.file.write_all(&bytes)?;
        self.file.sync_data()?;
        self.is_behind = false;
        self.compact_if_due();
        Ok(())
    }

    /// Whether something is not on the disk that should be.
    pub(super) fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// Writes the file anew where that is so.
    pub(super) fn catch_up(&mut self) -> io::Result<()> {
        if self.is_behind {
            self.write_anew()?;
        }
        Ok(())
    }

    /// Keeps the damaged file under another name, which takes no room on a full disk, and goes on in a
    /// new one; where that can't be written yet, the damaged one stays for the next start.
    fn cut(&mut self, damage: Damage) {
        let Damage { offset, len, reason } = damage;
        let (path, copy) = (self.dir.join(NAME), free_name(&self.dir));
        // The last place is taken again.
        let _ = fs::remove_file(&copy);
        let kept = fs::hard_link(&path, &copy).or_else(|_| fs::copy(&path, &copy).map(|_| ()));
        warn!(offset, len, reason, kept = kept.is_ok(), copy = %copy.display(),
            "the journal is damaged, and is cut at its last whole record");
        if let Err(error) = self.write_anew() {
            self.is_behind = true;
            warn!(%error, "the journal was not written anew");
        }
    }

    /// Makes the file one that can be appended to.
    fn begin(&mut self) -> io::Result<()> {
        self.file.seek(SeekFrom::End(0))?;
        if self.state.file_len < MAGIC.len() {
            self.file.write_all(MAGIC)?;
            self.state.file_len = MAGIC.len();
        }
        self.file.sync_all()?;
        File::open(&self.dir)?.sync_all()?;
        self.compact_if_due();
        Ok(())
    }

    fn compact_if_due(&mut self) {
        let len = self.state.file_len;
        if !self.state.wants_compaction() || len < self.compaction_len_min {
            return;
        }
        match self.write_anew() {
            Ok(()) => info!(from = len, to = self.state.file_len, "the journal is compacted"),
            Err(error) => {
                // Whichever of the two the name means, it is whole.
                self.compaction_len_min = len + JOURNAL_WASTE_LEN_MAX;
                warn!(%error, "the journal was not compacted");
            }
        }
    }

    fn write_anew(&mut self) -> io::Result<()> {
        let path = self.dir.join(NEW_NAME);
        let bytes = self.state.encode();
        let mut file = open_private(&path)?;
        // A crash may have left one.
        file.set_len(0)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&path, self.dir.join(NAME))?;
        // From here on the name means the new file, on the disk or not yet.
        self.file = file;
        self.state.compacted(bytes.len());
        // A crash may bring the old one back, without what is written behind it now.
        self.is_behind = true;
        File::open(&self.dir)?.sync_all()?;
        self.is_behind = false;
        Ok(())
    }
}

/// Opens or makes a file that its owner alone can read, since it has the logins of origins.
fn open_private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(PRIVATE_MODE);
    let file = options.open(path)?;
    let mode = file.metadata()?.permissions().mode();
    if mode & 0o777 & !PRIVATE_MODE != 0
        && let Err(error) = file.set_permissions(PermissionsExt::from_mode(PRIVATE_MODE))
    {
        // Somebody else's file; it is as good a journal.
        warn!(%error, path = %path.display(), mode = format_args!("{:o}", mode & 0o777),
            "the journal has passwords, and others can open it");
    }
    Ok(file)
}

/// Makes a folder that is there after a crash.
fn make_folder(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(dir)?;
    match dir.canonicalize()?.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Where the next damaged journal is kept: the first ones stay, since they may hold the most.
fn free_name(dir: &Path) -> PathBuf {
    let names = (1..=DAMAGED_KEPT_MAX).map(|number| dir.join(format!("{DAMAGED_NAME}.{number}")));
    let last = dir.join(format!("{DAMAGED_NAME}.{DAMAGED_KEPT_MAX}"));
    names.into_iter().find(|name| !name.exists()).unwrap_or(last)
}

const PRIVATE_MODE: u32 = 0o600;
const NAME: &str = "journal";
const NEW_NAME: &str = "journal.new";
const DAMAGED_NAME: &str = "journal.damaged";
const DAMAGED_KEPT_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::super::record::Frame;
    use super::super::record::decode;
    use super::super::state::tests::{add, remove};
    use super::*;

    /// A folder of its own, removed at the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let name = format!("rillcast-journal-{}-{name}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }

        fn open(&self) -> (JournalFile, Vec<String>, bool) {
            let (journal, replay) = JournalFile::open(&self.0).expect("a journal");
            let keys = replay.pulls.into_iter().map(|pull| pull.key).collect();
            (journal, keys, replay.damage.is_some())
        }

        fn path(&self) -> PathBuf {
            self.0.join(NAME)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_is_committed_is_there_after_a_restart() {
        let folder = Folder::new("restart");
        let (mut journal, keys, damaged) = folder.open();
        assert_eq!((keys.len(), damaged), (0, false));
        journal.commit(vec![add("a", "1"), add("b", "2")]).unwrap();
        journal.commit(vec![remove("a")]).unwrap();
        drop(journal);
        let (_, keys, damaged) = folder.open();
        assert_eq!((keys, damaged), (vec!["v/live/b".to_owned()], false));
    }

    #[test]
    fn folder_is_for_one_process() {
        let folder = Folder::new("lock");
        let first = folder.open();
        assert!(matches!(JournalFile::open(&folder.0), Err(OpenError::Locked { .. })));
        drop(first);
        folder.open();
    }

    #[test]
    fn tail_torn_at_any_byte_is_cut_and_written_after() {
        let folder = Folder::new("torn");
        let (mut journal, ..) = folder.open();
        journal.commit(vec![add("a", "1"), add("b", "2")]).unwrap();
        drop(journal);
        let whole = fs::read(folder.path()).unwrap();
        let Frame::Record { len, .. } = decode(&whole[MAGIC.len()..]) else { panic!("a record") };
        let first_end = MAGIC.len() + len;
        for len in 0..whole.len() {
            fs::write(folder.path(), &whole[..len]).unwrap();
            let (mut journal, keys, damaged) = folder.open();
            let kept = usize::from(len >= first_end);
            assert_eq!(keys.len(), kept, "{len}");
            assert_eq!(damaged, ![0, MAGIC.len(), first_end].contains(&len), "{len}");
            journal.commit(vec![add("c", "3")]).unwrap();
            drop(journal);
            let (_, keys, damaged) = folder.open();
            assert_eq!((keys.len(), damaged), (kept + 1, false), "{len}");
            assert_eq!(keys.last().unwrap(), "v/live/c", "{len}");
        }
        // The first one stays, and the last place has the newest.
        let damaged = |number| fs::read(folder.0.join(format!("{DAMAGED_NAME}.{number}"))).unwrap();
        assert_eq!((damaged(1), damaged(2)), (whole[..1].to_vec(), whole[..2].to_vec()));
        assert_eq!(damaged(DAMAGED_KEPT_MAX), whole[..whole.len() - 1]);
    }

    #[test]
    fn long_journal_is_compacted_and_says_the_same() {
        let folder = Folder::new("compact");
        let (mut journal, ..) = folder.open();
        journal.commit(vec![add("a", "1")]).unwrap();
        let mut written = 0;
        while written <= JOURNAL_WASTE_LEN_MAX {
            let records: Vec<_> = (0..1000).flat_map(|_| [add("b", "2"), remove("b")]).collect();
            journal.commit(records).unwrap();
            written += 1000 * 60;
        }
        assert!(fs::metadata(folder.path()).unwrap().len() < 512);
        journal.commit(vec![add("c", "3")]).unwrap();
        drop(journal);
        assert_eq!(folder.open().1, ["v/live/a", "v/live/c"]);
    }

    #[test]
    fn journal_is_for_its_owner_alone() {
        let folder = Folder::new("mode");
        let widen = |name: &str| {
            let path = folder.0.join(name);
            fs::set_permissions(path, PermissionsExt::from_mode(0o664)).unwrap();
        };
        let assert_private = |name: &str| {
            let mode = fs::metadata(folder.0.join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        };
        drop(folder.open());
        assert_private(NAME);
        // One of an older version, torn, and beside it what its compaction left.
        fs::write(folder.path(), &MAGIC[..3]).unwrap();
        fs::write(folder.0.join(NEW_NAME), vec![1; 4096]).unwrap();
        [NAME, NEW_NAME].iter().for_each(|name| widen(name));
        let (mut journal, ..) = folder.open();
        [NAME, &format!("{DAMAGED_NAME}.1")].iter().for_each(|name| assert_private(name));
        journal.commit(vec![add("a", "1")]).unwrap();
        journal.write_anew().unwrap();
        assert_private(NAME);
        drop(journal);
        let (_, keys, damaged) = folder.open();
        assert_eq!((keys, damaged), (vec!["v/live/a".to_owned()], false));
    }

    #[test]
    fn what_was_not_written_is_written_later() {
        let folder = Folder::new("behind");
        let (mut journal, ..) = folder.open();
        // Opened for reading, it takes nothing; a folder in the way of the new file neither.
        journal.file = File::open(folder.path()).unwrap();
        fs::create_dir(folder.0.join(NEW_NAME)).unwrap();
        assert!(journal.commit(vec![add("a", "1")]).is_err());
        assert!(journal.commit(vec![add("b", "2")]).is_err() && journal.is_behind());
        fs::remove_dir(folder.0.join(NEW_NAME)).unwrap();
        journal.catch_up().unwrap();
        assert!(!journal.is_behind());
        drop(journal);
        assert_eq!(folder.open().1, ["v/live/a", "v/live/b"]);
    }
}
