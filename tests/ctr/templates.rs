//! Sandboxes are clones of a machine that has booted once.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::Duration;

use conformance::{Daemon, eventually, processes};

use crate::Case;

pub(crate) const CASES: &[Case] = &[
    ("template warm, check: it is there, and whole", warm),
    ("24 clones live at once, each with random numbers and an identity of its own", siblings),
    ("a template whose state is damaged is built again", damaged),
    ("without templates a sandbox boots", switched_off),
    ("where no template can be built a sandbox boots, and the log says why", unbuildable),
    ("a clone that dies at once: the sandbox boots, and nobody tries again", stillborn),
    ("the shim is killed while it builds a template: the next one builds it", builder_killed),
];

/// Whether the sandbox of this container was cloned or booted, by the phases of its start.
fn began(daemon: &Daemon, id: &str) -> &'static str {
    let log = daemon.log_about(&format!("phases of sandbox {id}:"));
    match (log.contains(" restore="), log.contains(" boot=")) {
        (true, false) => "cloned",
        (false, true) => "booted",
        _ => panic!("neither cloned nor booted: {log}"),
    }
}

fn warm(daemon: &Daemon, id: &str) {
    let outcome = daemon.template("warm");
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert!(outcome.text().ends_with(": ready"), "{}", outcome.text());
    let outcome = daemon.template("check");
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert!(outcome.text().ends_with(": whole"), "{}", outcome.text());
    assert_ne!(daemon.template("wram").code, 0);
    daemon.run(id, &["--rm"], &["true"]).succeeds();
    assert_eq!(began(daemon, id), "cloned");
}

fn siblings(daemon: &Daemon, id: &str) {
    const COUNT: usize = 24;
    let script = "head -c 16 /dev/urandom | md5sum; cat /proc/sys/kernel/random/boot_id; hostname; \
                  echo end; exec sleep 1000";
    let ids: Vec<_> = (0..COUNT).map(|number| format!("{id}-{number:02}")).collect();
    let scratch = daemon.scratch();
    let log = |id: &str| scratch.path().join(id);
    thread::scope(|scope| {
        for id in &ids {
            scope.spawn(move || {
                let uri = format!("file://{}", log(id).display());
                let options = ["-d", "--log-uri", &uri];
                daemon.run(id, &options, &["sh", "-c", script]).succeeds();
            });
        }
    });
    let told = |id: &str| fs::read_to_string(log(id)).unwrap_or_default();
    for id in &ids {
        let complete = || told(id).ends_with("end\n");
        assert!(eventually(Duration::from_secs(30), complete), "{id} has said {:?}", told(id));
        assert_eq!(began(daemon, id), "cloned");
    }
    for line in 0..2 {
        let all: BTreeSet<_> =
            ids.iter().map(|id| told(id).lines().nth(line).unwrap().to_owned()).collect();
        assert_eq!(all.len(), COUNT, "line {line}: {all:?}");
    }
    // All of them live at this moment.
    for id in &ids {
        let words = ["task", "exec", "--exec-id", "e", id, "true"];
        daemon.ctr(&words).succeeds();
    }
    for id in &ids {
        daemon.leaves_nothing(id);
    }
}

fn damaged(daemon: &Daemon, id: &str) {
    assert_eq!(daemon.template("warm").code, 0);
    let entries = fs::read_dir(daemon.templates()).unwrap().flatten();
    for place in entries.map(|entry| entry.path()).filter(|path| path.is_dir()) {
        fs::write(place.join("state"), "damaged").unwrap();
    }
    let outcome = daemon.template("check");
    assert_eq!(outcome.code, 1);
    assert!(outcome.text().contains("state has hash"), "{}", outcome.text());
    daemon.run(id, &["--rm"], &["true"]).succeeds();
    assert_eq!(began(daemon, id), "cloned");
}

/// Runs with a configuration of its own.
fn run_with(daemon: &Daemon, id: &str, text: &str) {
    let scratch = daemon.scratch();
    let path = daemon.configuration(scratch.path(), text);
    daemon.run(id, &["--rm", "--runtime-config-path", &path], &["true"]).succeeds();
}

fn switched_off(daemon: &Daemon, id: &str) {
    run_with(daemon, id, "templates = false");
    assert_eq!(began(daemon, id), "booted");
}

fn unbuildable(daemon: &Daemon, id: &str) {
    run_with(daemon, id, "template_dir = \"/proc/no-templates\"");
    assert_eq!(began(daemon, id), "booted");
    let log = daemon.log_about(id);
    assert!(log.contains("boots instead") && log.contains("/proc/no-templates"), "{log}");
}

fn stillborn(daemon: &Daemon, id: &str) {
    let scratch = daemon.scratch();
    let qemu = scratch.path().join("qemu-system-x86_64");
    let script = "#!/bin/sh\ncase \"$*\" in *-incoming*) echo no clones >&2; exit 1 ;; esac\n\
                  exec /usr/bin/qemu-system-x86_64 \"$@\"\n";
    fs::write(&qemu, script).unwrap();
    fs::set_permissions(&qemu, fs::Permissions::from_mode(0o755)).unwrap();
    let text = format!("qemu = {qemu:?}\ntemplate_dir = {:?}", scratch.path().join("t"));
    run_with(daemon, id, &text);
    assert_eq!(began(daemon, id), "booted");
    let log = daemon.log_about(id);
    assert!(log.contains("boots instead") && log.contains("no clones"), "{log}");
    let second = daemon.new_id("second");
    run_with(daemon, &second, &text);
    let log = daemon.log_about(&second);
    assert!(log.contains("it failed") && log.contains("no clones"), "{log}");
}

fn builder_killed(daemon: &Daemon, id: &str) {
    let scratch = daemon.scratch();
    let templates = scratch.path().join("t");
    let path = daemon.configuration(scratch.path(), &format!("template_dir = {templates:?}"));
    let options = ["--rm", "--runtime-config-path", &path];
    let killed = format!("{id}-killed");
    thread::scope(|scope| {
        let client = scope.spawn(|| daemon.run(&killed, &options, &["true"]).quiet());
        let builds = || {
            let builders = processes();
            let of = |word: &'static str| {
                let (killed, templates) = (&killed, templates.display().to_string());
                builders.iter().find(move |process| {
                    let name = if word == "shim" { killed } else { &templates };
                    process.command.contains(word) && process.command.contains(name)
                })
            };
            let (Some(_), Some(shim)) = (of("qemu-system"), of("shim")) else { return false };
            shim.signal("KILL");
            true
        };
        assert!(eventually(Duration::from_secs(20), builds), "no template is built");
        assert_ne!(client.join().unwrap().code, 0);
    });
    daemon.leaves_nothing(&killed);
    let named = templates.display().to_string();
    let gone = || !processes().iter().any(|process| process.command.contains(&named));
    assert!(eventually(Duration::from_secs(1), gone), "the builder's machine outlives it");
    daemon.run(id, &options, &["true"]).succeeds();
    assert_eq!(began(daemon, id), "cloned");
    let unfinished = fs::read_dir(&templates).unwrap().flatten();
    assert!(!unfinished.into_iter().any(|entry| entry.path().extension() == Some("new".as_ref())));
}
