//! A private containerd and its client.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::leaks::{eventually, left_of};

/// The image that every case runs.
pub const IMAGE: &str = "localhost/busybox:latest";
/// The runtime under test.
pub const RUNTIME: &str = "io.containerd.vmrt.v2";
/// The namespace of the suite.
const SUITE: &str = "suite";
/// No command of a case may take longer; a cold boot under TCG with others beside it is the longest.
const DEADLINE: Duration = Duration::from_secs(120);

/// A containerd with its own root, state, socket and configuration. It ends when dropped.
pub struct Daemon {
    directory: TempDir,
    child: Child,
    namespace: String,
    cases: AtomicU32,
}

impl Daemon {
    /// Starts it and imports the test image.
    ///
    /// The environment names the parts: `VMRT_SHIM`, `VMRT_GUEST_IMAGE` and `VMRT_TEST_IMAGE`.
    pub fn start() -> Self {
        Self::launch(SUITE, Command::new("containerd"))
    }

    /// As [`start`](Self::start), for clients in `namespace`, and out of reach of the signals of a
    /// terminal: who handles them still needs the daemon to clean up.
    pub fn start_apart(namespace: &str) -> Self {
        let mut containerd = Command::new("containerd");
        containerd.process_group(0);
        Self::launch(namespace, containerd)
    }

    fn launch(namespace: &str, containerd: Command) -> Self {
        // Short, for sockets live below it, and on disk, for overlayfs wants to be.
        let directory = tempfile::Builder::new().prefix("vmrt-").tempdir_in("/var/lib").unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("bin")).unwrap();
        symlink(part("VMRT_SHIM"), at("bin/containerd-shim-vmrt-v2")).unwrap();
        let image = part("VMRT_GUEST_IMAGE");
        let configuration =
            format!("guest_image = {image:?}\ntemplate_dir = {:?}\n", at("templates"));
        fs::write(at("vmrt.toml"), configuration).unwrap();
        fs::write(at("containerd.toml"), containerd_configuration(directory.path())).unwrap();
        let child = spawn(containerd, directory.path());
        let namespace = namespace.to_owned();
        let daemon = Self { directory, child, namespace, cases: AtomicU32::new(0) };
        daemon.await_answer();
        let archive = daemon.test_image().display().to_string();
        daemon.ctr(&["image", "import", &archive]).succeeds();
        daemon
    }

    fn await_answer(&self) {
        let answers = || self.ctr(&["version"]).quiet().code == 0;
        assert!(eventually(Duration::from_secs(30), answers), "containerd does not answer");
    }

    /// Ends it as a crash does.
    pub fn crash(&mut self) {
        self.child.kill().expect("kill containerd");
        self.child.wait().expect("wait for containerd");
    }

    /// Starts it again, on everything that it had.
    pub fn come_back(&mut self) {
        self.child = spawn(Command::new("containerd"), self.directory.path());
        self.await_answer();
    }

    /// A name for a container that no other case has, of this run or another, and that is no part of
    /// another one.
    pub fn new_id(&self, case: &str) -> String {
        let number = self.cases.fetch_add(1, Ordering::Relaxed);
        format!("{case}-{}-{number:04}", std::process::id())
    }

    /// A client command.
    pub fn ctr(&self, arguments: &[&str]) -> Ctr {
        let mut command = Command::new("ctr");
        command.arg("-a").arg(self.directory.path().join("c.sock"));
        command.args(["-n", &self.namespace]).args(arguments);
        Ctr { command, input: Vec::new() }
    }

    /// `ctr run` of the test image: `options` before the image, then the words of the command.
    pub fn run(&self, id: &str, options: &[&str], words: &[&str]) -> Ctr {
        self.run_under(RUNTIME, id, options, words)
    }

    /// [`run`](Self::run) under another runtime of the same daemon.
    pub fn run_under(&self, runtime: &str, id: &str, options: &[&str], words: &[&str]) -> Ctr {
        let mut arguments = vec!["run", "--runtime", runtime];
        arguments.extend(options);
        arguments.extend([IMAGE, id]);
        arguments.extend(words);
        self.ctr(&arguments)
    }

    /// The namespace of its clients.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The number of its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The directory that everything of it is below.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The directory that the shim of a running container was started in.
    pub fn bundle(&self, id: &str) -> PathBuf {
        let bundles = self.directory.path().join("state/io.containerd.runtime.v2.task");
        bundles.join(&self.namespace).join(id)
    }

    /// A directory of the case for its own files.
    pub fn scratch(&self) -> TempDir {
        tempfile::Builder::new().prefix("case-").tempdir_in(self.directory.path()).unwrap()
    }

    /// Writes a configuration of the runtime for `--runtime-config-path`: that of the suite, but for
    /// the keys in `text`.
    pub fn configuration(&self, directory: &Path, text: &str) -> String {
        let all = fs::read_to_string(self.directory.path().join("vmrt.toml")).unwrap();
        let key = |line: &str| line.split('=').next().unwrap_or_default().trim().to_owned();
        let changed: Vec<_> = text.lines().map(key).collect();
        let kept = all.lines().filter(|line| !changed.contains(&key(line)));
        let lines: Vec<_> = kept.chain(text.lines()).collect();
        let path = directory.join("vmrt.toml");
        fs::write(&path, lines.join("\n")).unwrap();
        path.display().to_string()
    }

    /// Where the runtime keeps its templates.
    pub fn templates(&self) -> PathBuf {
        self.directory.path().join("templates")
    }

    /// What is done to the templates of the suite by their operator.
    pub fn template(&self, action: &str) -> Outcome {
        let mut command = Command::new(part("VMRT_SHIM"));
        command.args(["template", action]);
        command.env("VMRT_CONFIG", self.directory.path().join("vmrt.toml"));
        Ctr { command, input: Vec::new() }.quiet()
    }

    /// The archive of the image that every case runs.
    pub fn test_image(&self) -> PathBuf {
        part("VMRT_TEST_IMAGE")
    }

    /// Deletes what is left of a container in the daemon, if anything is.
    pub fn remove(&self, id: &str) {
        let gone = || self.ctr(&["task", "rm", "-f", id]).quiet().stderr.contains("not found");
        eventually(Duration::from_secs(5), gone);
        self.ctr(&["container", "rm", id]).quiet();
    }

    /// Deletes what is left of a container in the daemon, and fails when something of it stays on the
    /// host.
    pub fn leaves_nothing(&self, id: &str) {
        self.remove(id);
        let left = left_of(id);
        assert!(left.is_empty(), "left of {id}: {left:#?}");
    }

    /// The daemon's log, with those of the shims in it.
    pub fn log(&self) -> String {
        let log = fs::read(self.directory.path().join("containerd.log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// The lines of the daemon's log that name `word`.
    pub fn log_about(&self, word: &str) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().filter(|line| line.contains(word)).collect();
        lines.join("\n")
    }

    /// The last of those lines, for a report.
    pub fn last_words_about(&self, word: &str) -> String {
        let log = self.log_about(word);
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let term = Command::new("kill").arg(self.child.id().to_string()).status();
        let ended = term.is_ok()
            && eventually(Duration::from_secs(10), || {
                self.child.try_wait().is_ok_and(|status| status.is_some())
            });
        if !ended {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Starts containerd with the configuration in its directory.
fn spawn(mut containerd: Command, directory: &Path) -> Child {
    let at = |name: &str| directory.join(name);
    let log = File::options().create(true).append(true).open(at("containerd.log")).unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    containerd
        .arg("--config")
        .arg(at("containerd.toml"))
        .env("PATH", format!("{}:{path}", at("bin").display()))
        .env("VMRT_CONFIG", at("vmrt.toml"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .expect("start containerd")
}

/// The file or directory that the environment names.
pub fn part(name: &str) -> PathBuf {
    let path = std::env::var_os(name)
        .unwrap_or_else(|| panic!("{name} is not set: run scripts/test.sh or scripts/bench.sh"));
    fs::canonicalize(&path).unwrap_or_else(|error| panic!("{name} = {path:?}: {error}"))
}

fn containerd_configuration(directory: &Path) -> String {
    let directory = directory.display();
    format!(
        r#"version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images",
    "io.containerd.cri.v1.runtime", "io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri"]
[grpc]
address = "{directory}/c.sock"
[debug]
level = "debug"
"#
    )
}

/// A client command that has not run yet.
pub struct Ctr {
    command: Command,
    input: Vec<u8>,
}

/// How a client command ended.
#[derive(Debug)]
pub struct Outcome {
    /// The exit code of the client; -1 when it had to be killed at the deadline.
    pub code: i32,
    /// What it wrote.
    pub stdout: Vec<u8>,
    /// What it wrote beside.
    pub stderr: String,
}

impl Ctr {
    /// Gives it input.
    #[must_use]
    pub fn input(mut self, input: Vec<u8>) -> Self {
        self.input = input;
        self
    }

    /// For a caller who runs it in another way.
    pub fn into_command(self) -> Command {
        self.command
    }

    /// Runs it to its end, whatever that is.
    pub fn quiet(mut self) -> Outcome {
        let mut child = self
            .command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start ctr");
        let mut stdin = child.stdin.take().expect("a pipe");
        let input = self.input;
        // What does not read its input to the end breaks the pipe, and may.
        thread::spawn(move || drop(stdin.write_all(&input)));
        let pid = child.id();
        let (started, watchdog) = (Instant::now(), std::sync::mpsc::channel::<()>());
        let (done, expired) = watchdog;
        let killer = thread::spawn(move || {
            if expired.recv_timeout(DEADLINE).is_err() {
                let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
            }
        });
        let output = child.wait_with_output().expect("wait for ctr");
        let _ = done.send(());
        let _ = killer.join();
        let mut stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        if started.elapsed() > DEADLINE {
            stderr.push_str("\n(killed at the deadline of the suite)");
        }
        Outcome { code: output.status.code().unwrap_or(-1), stdout: output.stdout, stderr }
    }

    /// Runs it and kills it after `time`, as a user does who has lost patience.
    pub fn abandoned_after(mut self, time: Duration) {
        let mut child = self.command.stdin(Stdio::null()).spawn().expect("start ctr");
        thread::sleep(time);
        assert!(child.try_wait().expect("wait for ctr").is_none(), "it was done too early");
        child.kill().expect("kill ctr");
        child.wait().expect("wait for ctr");
    }

    /// Runs it and expects exit code 0.
    pub fn succeeds(self) -> Outcome {
        self.ends_with(0)
    }

    /// Runs it and expects this exit code.
    pub fn ends_with(self, code: i32) -> Outcome {
        let shown = format!("{:?}", self.command);
        let outcome = self.quiet();
        assert_eq!(outcome.code, code, "{shown}\n{}\n{}", outcome.text(), outcome.stderr);
        outcome
    }

    /// Runs it and expects failure with one line that holds every one of `words`.
    pub fn fails_naming(self, words: &[&str]) -> Outcome {
        let outcome = self.quiet();
        assert_ne!(outcome.code, 0, "it succeeds:\n{}", outcome.text());
        let line = |line: &str| words.iter().all(|word| line.contains(word));
        assert!(outcome.stderr.lines().any(line), "no line names {words:?}:\n{}", outcome.stderr);
        outcome
    }
}

impl Outcome {
    /// What it wrote, as text without blanks around it.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }
}

/// The daemon's events, line by line, from the moment of the subscription on.
pub struct Listener {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Daemon {
    /// Subscribes to the events.
    pub fn listen(&self) -> Listener {
        let mut ctr = self.ctr(&["events"]);
        let mut child = ctr.command.stdout(Stdio::piped()).spawn().expect("start ctr events");
        let stdout = child.stdout.take().expect("a pipe");
        let (sender, lines) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let reader = std::io::BufReader::new(stdout);
            for line in std::io::BufRead::lines(reader).map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        // The subscription is there when an event of our own making comes through.
        let mut listener = Listener { child, lines };
        let probe = self.new_id("probe");
        let heard = eventually(Duration::from_secs(10), || {
            self.ctr(&["namespaces", "create", &probe]).quiet();
            self.ctr(&["namespaces", "remove", &probe]).quiet();
            listener.lines.recv_timeout(Duration::from_millis(200)).is_ok()
        });
        assert!(heard, "ctr events tells of nothing");
        listener.until(Duration::from_millis(100), |_| false);
        listener
    }
}

impl Listener {
    /// Collects events until `enough` is content, or the time is over.
    pub fn until(&mut self, limit: Duration, enough: impl Fn(&[String]) -> bool) -> Vec<String> {
        let deadline = Instant::now() + limit;
        let mut seen = Vec::new();
        while !enough(&seen) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => seen.push(line),
                Err(_) => break,
            }
        }
        seen
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
