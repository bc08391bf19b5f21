use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;

use tempfile::TempDir;

use super::*;
use crate::{Env, code};

/// Between writing a script and starting it no other test may start a process: it would inherit the open file, which
/// makes the script busy for a moment.
static SCRIPTS: Mutex<()> = Mutex::new(());

/// A folder with a plugin `x`, and a call that finds it.
struct Fixture {
    folder: TempDir,
    call: Call,
}

impl Fixture {
    fn new(script: &str) -> Self {
        let _alone = SCRIPTS.lock().unwrap_or_else(|e| e.into_inner());
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("x");
        fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        let path = folder.path().to_str().unwrap().to_owned();
        let stdin = br#"{"name":"n","cniVersion":"1.0.0"}"#.to_vec();
        let call = Call::new(Env { path, ..Env::default() }, stdin).unwrap();
        Self { folder, call }
    }

    fn start(&self, stdin: &[u8], timeout: Duration) -> Running {
        let mut running = {
            let _alone = SCRIPTS.lock().unwrap_or_else(|e| e.into_inner());
            start_with(&self.call, "x", "ADD", &[("EXTRA", "more")], stdin).unwrap()
        };
        running.set_timeout(timeout);
        running
    }

    fn run(&self) -> Result<String, Error> {
        self.start(&self.call.stdin, Duration::from_secs(20)).wait().map(|bytes| String::from_utf8(bytes).unwrap())
    }

    fn result(&self) -> Result<crate::AddResult, Error> {
        self.start(&self.call.stdin, Duration::from_secs(20)).wait_result(&self.call)
    }
}

#[test]
fn finding() {
    let Fixture { folder, .. } = Fixture::new("");
    let folder = folder.path().to_str().unwrap();
    let message = |name: &str, path: &str| find(name, path).unwrap_err().msg;
    assert_eq!(find("x", &format!("/nowhere:{folder}")).unwrap(), Path::new(folder).join("x"));
    assert_eq!(message("", folder), "no plugin name provided");
    assert_eq!(message("../x", folder), "invalid plugin name: ../x");
    assert_eq!(message("x", ""), "no paths provided");
    assert_eq!(message("y", "/a:/b"), "failed to find plugin \"y\" in path [/a /b]");
    // Neither a folder is a plugin, nor is anything looked for in PATH.
    assert!(find(".", folder).is_err());
    assert!(find("sh", ":/nowhere").is_err());
    assert_eq!(find("Cargo.toml", ":/nowhere").unwrap(), Path::new("./Cargo.toml"));
}

#[test]
fn environment_and_stdin() {
    let fixture = Fixture::new("echo $CNI_COMMAND $EXTRA; [ -n \"$PATH\" ] || exit 1; cat");
    assert_eq!(fixture.run().unwrap(), "ADD more\n{\"name\":\"n\",\"cniVersion\":\"1.0.0\"}");
}

#[test]
fn large_input_and_output() {
    // Far more than pipes hold, in both directions at once.
    let fixture = Fixture::new("cat");
    let stdin: Vec<u8> = (0..3_000_000_u32).map(|n| b'a' + u8::try_from(n % 26).unwrap()).collect();
    assert_eq!(fixture.start(&stdin, Duration::from_secs(60)).wait().unwrap(), stdin);
}

#[test]
fn stdin_may_stay_unread() {
    let fixture = Fixture::new("exec <&-; echo fine");
    let stdin = vec![b' '; 1 << 20];
    assert_eq!(fixture.start(&stdin, Duration::from_secs(20)).wait().unwrap(), b"fine\n");
}

#[test]
fn failures() {
    let error = Fixture::new("echo '{\"code\":11,\"msg\":\"m\",\"details\":\"d\"}'; exit 1").run().unwrap_err();
    assert_eq!(error, Error::new(11, "m").with_details("d"));
    let error = Fixture::new("echo no >&2; exit 3").run().unwrap_err();
    assert_eq!(error, Error::internal("plugin \"x\" ADD failed: exit status 3: \"no\""));
    let error = Fixture::new("kill -9 $$").run().unwrap_err();
    assert_eq!(error, Error::internal("plugin \"x\" ADD failed with no error message: killed by signal 9"));
    let error = Fixture::new("yes | head -c 20000000").run().unwrap_err();
    assert_eq!(error.msg, "plugin \"x\" ADD printed more than 16777216 bytes, and was ended");
}

#[test]
fn not_executable() {
    let fixture = Fixture::new("");
    fs::write(fixture.folder.path().join("y"), "").unwrap();
    let error = start(&fixture.call, "y", "DEL", &[]).unwrap_err();
    assert!(error.msg.starts_with("failed to start plugin \"y\" (/"), "{error}");
    assert!(error.msg.ends_with("Permission denied (os error 13)"), "{error}");
}

#[test]
fn results() {
    let with = |document: &str| Fixture::new(&format!("printf '%s' '{document}'")).result();
    // Without a version it has the config's, else its own.
    assert_eq!(with(r#"{"ips":[{"address":"10.0.0.2/8"}]}"#).unwrap().ips.len(), 1);
    assert_eq!(with(r#"{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.2/8"}}"#).unwrap().ips.len(), 1);
    assert_eq!(with("null").unwrap(), crate::AddResult::default());
    assert_eq!(with(" ").unwrap_err(), Error::internal("plugin \"x\" ADD printed no result"));
    let error = with(r#"{"cniVersion":"9"}"#).unwrap_err();
    assert_eq!(error.msg, "plugin \"x\" ADD printed an invalid result: unsupported CNI result version \"9\"");
    assert_eq!(error.details, "{\"cniVersion\":\"9\"}");
    assert!(with("{").unwrap_err().msg.contains("unexpected end of JSON input"));
}

#[test]
fn deadline() {
    let begin = Instant::now();
    let obedient = Fixture::new("trap 'echo undone >&2; exit 0' TERM; while :; do sleep 0.01; done");
    let error = obedient.start(b"", Duration::from_millis(100)).wait().unwrap_err();
    assert_eq!((error.code, error.msg.as_str()), (11, "plugin \"x\" ADD was not done in time, and was ended"));
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());

    // Neither SIGTERM nor a closed stdout gets it away.
    let begin = Instant::now();
    let stubborn = Fixture::new("trap '' TERM; exec >&- 2>&-; while :; do sleep 0.01; done");
    let error = stubborn.start(b"", Duration::from_millis(100)).wait().unwrap_err();
    assert_eq!(error.code, 11);
    assert!((5..8).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
}

#[test]
fn one_that_succeeds_when_it_is_ended_is_to_be_undone() {
    let undone = |script: &str| {
        let fixture = Fixture::new(script);
        let mut succeeded = false;
        let running = fixture.start(&fixture.call.stdin, Duration::from_secs(3));
        let error = running.wait_then(&fixture.call, || succeeded = true).unwrap_err();
        assert_eq!(error.code, code::TRY_AGAIN);
        succeeded
    };
    assert!(undone("trap 'exit 0' TERM; while :; do sleep 0.01; done"));
    assert!(!undone("exec sleep 60"));
}

#[test]
fn a_grandchild_with_our_pipes_does_not_hold_us() {
    let begin = Instant::now();
    let fixture = Fixture::new("sleep 30 & echo $!");
    let pid = fixture.run().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    kill_process(&pid);
}

#[test]
fn it_ends_after_closing_its_outputs() {
    let fixture = Fixture::new("echo a; exec >&- 2>&-; sleep 0.3; exit 4");
    let error = fixture.run().unwrap_err();
    assert_eq!(error.msg, "plugin \"x\" ADD failed: exit status 4: no error object on stdout: \"a\"");
}

#[test]
fn dropped_it_is_waited_for() {
    let fixture = Fixture::new("sleep 0.2; touch $0.done");
    drop(fixture.start(b"", Duration::from_secs(20)));
    assert!(fixture.folder.path().join("x.done").exists());
}

#[test]
fn busy_text() {
    let fixture = Fixture::new("echo fine");
    let file = fs::OpenOptions::new().append(true).open(fixture.folder.path().join("x")).unwrap();
    let writer = thread::spawn(move || {
        thread::sleep(Duration::from_millis(300));
        drop(file);
    });
    let begin = Instant::now();
    let running = start(&fixture.call, "x", "ADD", &[]).unwrap();
    assert!(begin.elapsed() > Duration::from_millis(200));
    assert_eq!(running.wait().unwrap(), b"fine\n");
    writer.join().unwrap();
}

#[test]
fn timeouts() {
    let of = |text: &str| timeout(Some(text.into())).as_secs();
    assert_eq!(timeout(None), DEFAULT_TIMEOUT);
    assert_eq!((of("5"), of("0"), of("-1"), of("x"), of("")), (5, 90, 90, 90, 90));
    let inner = |seconds| of_delegates(Duration::from_secs(seconds)).as_secs();
    assert_eq!((inner(90), inner(11), inner(10), inner(1)), (85, 6, 5, 1));
}

fn kill_process(pid: &str) {
    use nix::sys::signal::{Signal, kill};
    kill(nix::unistd::Pid::from_raw(pid.trim().parse().unwrap()), Signal::SIGKILL).unwrap();
}
