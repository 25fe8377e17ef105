use std::sync::Mutex;

use super::*;

/// Records the names of the called methods; does nothing else.
#[derive(Debug, Default)]
struct Recorder(Arc<Mutex<Vec<&'static str>>>);

impl Recorder {
    fn record<T: Default>(&self, method: &'static str) -> Result<T> {
        self.0.lock().unwrap().push(method);
        Ok(T::default())
    }
}

impl Backend for Recorder {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: "recorder",
            seals_to_fresh_id: true,
            seal_is_durable: false,
            seal_hides_errors: false,
            create_needs_sync: true,
            create_is_brief: false,
            layers_max: Some(3),
        }
    }
    fn create(&self, _: Id, _: &Chain) -> Result<()> {
        self.record("create")
    }
    fn mounts(&self, _: &Chain, _: Access) -> Result<Vec<Mount>> {
        self.record("mounts")
    }
    fn seal(&self, _: Id, _: Id) -> Result<()> {
        self.record("seal")
    }
    fn remove(&self, _: Id) -> Result<()> {
        self.record("remove")
    }
    fn remove_until(&self, _: Id, _: &dyn Fn() -> bool) -> Result<bool> {
        self.record("remove_until")
    }
    fn usage(&self, _: Id, _: &Chain) -> Result<Usage> {
        self.record("usage")
    }
    fn survey(&self, _: Id, _: &Chain) -> Result<Survey> {
        self.record::<()>("survey").map(|()| Survey { usage: Usage::default(), inodes: None })
    }
    fn inventory(&self) -> Result<Vec<Id>> {
        self.record("inventory")
    }
    fn layer(&self, id: Id) -> Option<Layer> {
        Some(Layer { dir: id.to_string().into(), format: crate::changeset::Format::Tree })
    }
    fn candidates(&self, _: Id, _: Id) -> Result<Candidates> {
        self.record::<()>("candidates").map(|()| Candidates::All)
    }
}

const METHODS: [&str; 9] =
    ["create", "mounts", "seal", "remove", "remove_until", "usage", "survey", "inventory", "candidates"];

/// Calls every method once; returns the error of each, the calls that reached the inner backend, and the count.
fn run(fault: Fault) -> (Vec<Option<Error>>, Vec<&'static str>, u64) {
    let recorder = Recorder::default();
    let reached = Arc::clone(&recorder.0);
    let faulty = Faulty::new(Box::new(recorder), fault);
    let calls = faulty.calls();
    let (a, b) = (Id(1), Id(2));
    let answers = vec![
        faulty.create(a, &[]).err(),
        faulty.mounts(&[a], Access::ReadOnly).err(),
        faulty.seal(a, b).err(),
        faulty.remove(a).err(),
        faulty.remove_until(a, &|| false).err(),
        faulty.usage(b, &[]).err(),
        faulty.survey(b, &[]).err(),
        faulty.inventory().err(),
        faulty.candidates(b, a).err(),
    ];
    assert_eq!(faulty.capabilities(), Recorder::default().capabilities());
    assert_eq!(faulty.layer(a), Recorder::default().layer(a));
    let reached = reached.lock().unwrap().clone();
    (answers, reached, calls.load(Ordering::SeqCst))
}

#[test]
fn without_a_fault_everything_passes() {
    let (answers, reached, calls) = run(Fault::NONE);
    assert!(answers.iter().all(Option::is_none));
    assert_eq!((reached, calls), (METHODS.to_vec(), METHODS.len() as u64));
}

#[test]
fn one_call_fails_before_or_after() {
    for at_call in 1..=METHODS.len() as u64 {
        for when in [When::Before, When::After] {
            let (answers, reached, calls) = run(Fault { at_call, when, action: Action::Fail });
            let struck = usize::try_from(at_call).unwrap() - 1;
            for (index, answer) in answers.iter().enumerate() {
                assert_eq!(answer.as_ref().map(Error::kind), (index == struck).then_some(ErrorKind::Io), "{index}");
            }
            assert!(answers[struck].as_ref().unwrap().to_string().ends_with(METHODS[struck]));
            assert_eq!(reached.contains(&METHODS[struck]), when == When::After);
            assert_eq!(
                (reached.len(), calls),
                (METHODS.len() - usize::from(when == When::Before), METHODS.len() as u64)
            );
        }
    }
}

#[test]
fn one_call_dies_before_or_after() {
    for (when, done) in [(When::Before, 2), (When::After, 3)] {
        let recorder = Recorder::default();
        let reached = Arc::clone(&recorder.0);
        let faulty =
            Faulty::new(Box::new(recorder), Fault { at_call: 3, when, action: Action::Die(|| panic!("dead")) });
        let died = std::thread::scope(|scope| {
            scope.spawn(|| (0..5).for_each(|id| faulty.remove(Id(id)).unwrap())).join().is_err()
        });
        assert!(died);
        assert_eq!(reached.lock().unwrap().len(), done);
    }
}
