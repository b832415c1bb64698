//! Life inside somebody else's daemon.

use std::collections::BTreeSet;
use std::fs;

use conformance::{Bundle, processes};

use crate::Case;
use crate::place::{Place, dispose, init, start};

pub(crate) const CASES: &[Case] = &[
    ("a pod is one process more, the VMM, and that has nothing of the daemon", processes_of_a_pod),
    ("a thousand pending waits cost no thread", waits),
    ("the process is left as it was", untouched),
];

fn status_of(pid: u32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_start_matches(':').trim().to_owned()
}

fn processes_of_a_pod(place: &Place) {
    let runtime = place.open();
    let id = place.id("c");
    place.run(async {
        let sleeping = Bundle::running(&["sleep", "1000"]);
        let created = start(&*runtime, place.request(&id, &sleeping)).await.unwrap();
        let vmms = place.vmms();
        assert_eq!(vmms.len(), 1, "{vmms:#?}");
        let vmm = created.pid.0;
        assert_eq!(vmms[0].pid, vmm);
        let named: Vec<_> = processes()
            .into_iter()
            .filter(|one| one.command.contains(&format!("/{id}/")) || one.parent == vmm)
            .collect();
        assert_eq!(named.len(), 1, "{named:#?}");
        let groups = fs::read_to_string(format!("/proc/{vmm}/cgroup")).unwrap();
        assert!(groups.contains(&format!("/vmrt/vmrt-{id}\n")), "{groups}");
        let environment = fs::read(format!("/proc/{vmm}/environ")).unwrap();
        assert!(environment.is_empty(), "{}", String::from_utf8_lossy(&environment));
        let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
        let score = fs::read_to_string(format!("/proc/{vmm}/oom_score_adj")).unwrap();
        assert!(score.trim().parse::<i32>().unwrap() > own.trim().parse().unwrap());
        let links = fs::read_dir(format!("/proc/{vmm}/fd")).unwrap().flatten();
        let foreign: Vec<_> = links
            .filter_map(|link| fs::read_link(link.path()).ok())
            .filter(|target| target.starts_with(env!("CARGO_MANIFEST_DIR")))
            .collect();
        assert!(foreign.is_empty(), "{foreign:?}");
        dispose(&*runtime, &id).await;
    });
    place.is_clean();
}

fn waits(place: &Place) {
    let runtime = place.open();
    let id = place.id("c");
    place.run(async {
        let sleeping = Bundle::running(&["sleep", "1000"]);
        start(&*runtime, place.request(&id, &sleeping)).await.unwrap();
        let threads = || fs::read_dir("/proc/self/task").unwrap().count();
        let before = threads();
        let waiting: Vec<_> = (0..1000)
            .map(|_| {
                let (runtime, id) = (runtime.clone(), id.clone());
                tokio::spawn(async move { runtime.wait(&init(&id)).await })
            })
            .collect();
        // Each has been submitted when the last one was.
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        assert!(waiting.iter().all(|wait| !wait.is_finished()));
        // Other cases of this program open instances of their own meanwhile, with a few threads each.
        assert!(threads() < before + 50, "{} threads, {before} before", threads());
        dispose(&*runtime, &id).await;
        for wait in waiting {
            let waited = wait.await.unwrap();
            assert!(waited.is_err() || waited.unwrap().code == 137);
        }
    });
    place.is_clean();
}

fn untouched(place: &Place) {
    let own = std::process::id();
    let look = || {
        let signals = ["SigCgt", "SigIgn", "SigBlk"].map(|field| status_of(own, field));
        let directory = std::env::current_dir().unwrap();
        let environment: BTreeSet<_> = std::env::vars_os().collect();
        (signals, directory, environment, status_of(own, "Umask"))
    };
    let before = look();
    let runtime = place.open();
    let id = place.id("c");
    place.run(async {
        start(&*runtime, place.request(&id, &Bundle::running(&["true"]))).await.unwrap();
        runtime.wait(&init(&id)).await.unwrap();
        assert_eq!(look(), before);
        runtime.delete(&init(&id)).await.unwrap();
    });
    drop(runtime);
    assert_eq!(look(), before);
    let threads = fs::read_dir("/proc/self/task").unwrap().flatten().filter_map(|task| {
        let name = fs::read_to_string(task.path().join("comm")).ok()?;
        let status = fs::read_to_string(task.path().join("status")).ok()?;
        (name.trim() == "vmrt").then_some(status)
    });
    for status in threads {
        let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
        // All but SIGKILL, SIGSTOP and the two that glibc keeps for itself.
        assert_eq!(blocked.trim(), "fffffffe7ffbfeff", "{status}");
    }
    place.is_clean();
}
