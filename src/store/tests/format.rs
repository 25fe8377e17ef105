//! Directories that are a store, and directories that are not.

use super::*;

#[test]
fn a_newer_format_is_refused() {
    let place = Place::new();
    let store = place.store();
    place.execute("PRAGMA user_version = 99");
    assert_eq!(kind(Database::open(place.root())), Some(ErrorKind::Unsupported));
    assert_eq!(kind(Database::create(place.root(), Durability::Commit)), Some(ErrorKind::Unsupported));
    assert_eq!(kind(store.prepare("key", "", NONE)), Some(ErrorKind::Unsupported), "open since before");
}

#[test]
fn a_database_of_others_is_refused_and_left_alone() {
    let place = Place::new();
    place.execute("CREATE TABLE theirs (a)");
    let before = fs::read(place.root().join("strata.db")).expect("read");
    for answer in [Database::open(place.root()).map(drop), Database::create(place.root(), Durability::Commit).map(drop)]
    {
        assert_eq!(kind(answer), Some(ErrorKind::DataLoss));
    }
    assert!(before == fs::read(place.root().join("strata.db")).expect("read"), "it was changed");
    place.execute("PRAGMA user_version = 1");
    assert_eq!(kind(Database::open(place.root())), Some(ErrorKind::DataLoss));
}

#[test]
fn a_damaged_database_is_refused() {
    let place = Place::new();
    let store = place.store();
    store.prepare("key", "", NONE).expect("prepare");
    drop(store);
    place.execute("PRAGMA wal_checkpoint(TRUNCATE)");
    let file = place.root().join("strata.db");
    let whole = fs::read(&file).expect("read");
    fs::write(&file, &whole[..whole.len() / 2]).expect("write");
    let answer = Database::open(place.root()).and_then(|database| {
        let store = Store::new(database.expect("a store"), Box::new(place.plain(During::nothing())), LOCAL)?;
        store.walk(&[], &mut |_| Ok(()))?;
        store.prepare("other", "", NONE)
    });
    assert_eq!(kind(answer), Some(ErrorKind::DataLoss));
    fs::write(&file, vec![0xa5; whole.len()]).expect("write");
    assert_eq!(kind(Database::open(place.root())), Some(ErrorKind::DataLoss));
}

#[test]
fn a_root_where_others_can_write_is_refused() {
    let place = Place::new();
    drop(place.store());
    let set = |mode| rustix::fs::chmod(place.root(), rustix::fs::Mode::from_raw_mode(mode)).expect("chmod");
    for mode in [0o777, 0o730] {
        set(mode);
        assert_eq!(kind(Database::open(place.root())), Some(ErrorKind::FailedPrecondition), "{mode:o}");
    }
    set(0o700);
    Database::open(place.root()).expect("open").expect("a store");
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(place.root(), Some(65_534), None).expect("chown");
        assert_eq!(kind(Database::open(place.root())), Some(ErrorKind::FailedPrecondition));
        let made = Database::create(place.root(), Durability::Commit);
        assert_eq!(kind(made), Some(ErrorKind::FailedPrecondition), "also to make one");
    }
}

#[test]
fn a_root_with_something_else_in_it_is_refused_and_left_alone() {
    let place = Place::new();
    fs::write(place.root().join("letter"), "").expect("write");
    let config = crate::backends::Config {
        backend: Some(crate::backends::OVERLAY),
        ..crate::backends::Config::new(place.root())
    };
    let error = crate::backends::open(&config).expect_err("not empty");
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert!(error.to_string().contains("letter"), "{error}");
    assert_eq!(fs::read_dir(place.root()).expect("list").count(), 1, "something was left in it");
}

#[test]
fn the_first_one_says_which_backend_it_is() {
    #[derive(Debug)]
    struct Renamed(Plain);
    impl Backend for Renamed {
        fn capabilities(&self) -> Capabilities {
            Capabilities { name: "renamed", ..self.0.capabilities() }
        }
        fn create(&self, id: Id, parents: &Chain) -> Result<()> {
            self.0.create(id, parents)
        }
        fn mounts(&self, stack: &Chain, access: Access) -> Result<Vec<Mount>> {
            self.0.mounts(stack, access)
        }
        fn seal(&self, active: Id, sealed: Id) -> Result<()> {
            self.0.seal(active, sealed)
        }
        fn remove(&self, id: Id) -> Result<()> {
            self.0.remove(id)
        }
        fn usage(&self, id: Id, parents: &Chain) -> Result<Usage> {
            self.0.usage(id, parents)
        }
        fn inventory(&self) -> Result<Vec<Id>> {
            self.0.inventory()
        }
    }
    let place = Place::new();
    // Two processes that both find a new store.
    let open = |durability| Database::create(place.root(), durability).expect("database");
    let (first, second, third) = (open(Durability::None), open(Durability::Commit), open(Durability::Commit));
    let renamed = || Box::new(Renamed(place.plain(During::nothing())));
    Store::new(first, Box::new(place.plain(During::nothing())), LOCAL).expect("the first");
    let error = Store::new(second, renamed(), LOCAL).expect_err("another backend");
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert!(error.to_string().contains("plain") && error.to_string().contains("renamed"), "{error}");
    let third = Store::new(third, Box::new(place.plain(During::nothing())), LOCAL).expect("the same backend");
    assert_eq!(third.durability(), Durability::None);
    assert_eq!(kind(Store::new(open(Durability::Commit), renamed(), LOCAL)), Some(ErrorKind::FailedPrecondition));
}

#[test]
fn an_interrupted_first_start_is_gone_on_with() {
    let place = Place::new();
    fs::create_dir(place.root().join("run")).expect("mkdir");
    fs::create_dir(place.root().join("s")).expect("mkdir");
    // The state in which SQLite leaves the file before the first transaction.
    place.execute("PRAGMA journal_mode = wal");
    place.store().prepare("key", "", NONE).expect("prepare");
}

/// Many handles are opened at once on an empty root. The test repeats this, because they seldom meet in the one call
/// for which SQLite ignores its timeout.
#[test]
fn a_store_is_made_once() {
    for _ in 0..20 {
        let place = Place::new();
        std::thread::scope(|scope| {
            for number in 0..8 {
                let place = &place;
                scope.spawn(move || place.store().prepare(&number.to_string(), "", NONE).expect("prepare"));
            }
        });
        assert_eq!(names(&place.store()).len(), 8);
        assert_eq!(place.ids().len(), 8);
    }
}
