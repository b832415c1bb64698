//! The types of `include/vmrt.h`, which says what they mean. A test compares the two.

use std::ffi::{c_char, c_int, c_void};

use runtime_api::EventKind;

/// The version of the table that is spoken here.
pub(crate) const MAJOR: u32 = 2;
pub(crate) const MINOR: u32 = 0;

/// The methods beyond Task.
pub(crate) const ATTACH: u32 = 64;
pub(crate) const DIAL: u32 = 65;

/// `vmrt`: an instance behind a pointer.
pub(crate) enum Opaque {}

/// `vmrt_request`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Request {
    pub(crate) tag: u64,
    pub(crate) key: u64,
    pub(crate) method: u32,
    pub(crate) reserved: u32,
    pub(crate) timeout_ns: u64,
    pub(crate) data: *const u8,
    pub(crate) len: usize,
}

/// `vmrt_result`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Outcome {
    pub(crate) tag: u64,
    pub(crate) key: u64,
    pub(crate) code: i32,
    pub(crate) fd: i32,
    pub(crate) event: u32,
    pub(crate) reserved: u32,
    pub(crate) data: *mut u8,
    pub(crate) len: usize,
}

/// The `log` of `vmrt_options`.
pub(crate) type Log = extern "C" fn(*mut c_void, c_int, *const c_char, usize);

/// `vmrt_options`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Options {
    pub(crate) size: usize,
    pub(crate) config: *const c_char,
    pub(crate) state_dir: *const c_char,
    pub(crate) workers: u32,
    pub(crate) log: Option<Log>,
    pub(crate) log_user: *mut c_void,
}

/// `vmrt_api`: the table.
#[repr(C)]
pub struct Api {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) size: usize,
    pub(crate) version: *const c_char,
    pub(crate) open: unsafe extern "C" fn(*const Options, *mut *mut Opaque) -> c_int,
    pub(crate) fd: unsafe extern "C" fn(*mut Opaque) -> c_int,
    pub(crate) submit: unsafe extern "C" fn(*mut Opaque, *const Request, *mut Outcome) -> c_int,
    pub(crate) reap: unsafe extern "C" fn(*mut Opaque, *mut Outcome, usize) -> usize,
    pub(crate) cancel: unsafe extern "C" fn(*mut Opaque, u64) -> c_int,
    pub(crate) free: unsafe extern "C" fn(*mut u8, usize),
    pub(crate) close: unsafe extern "C" fn(*mut Opaque),
}

/// The topics of events, at the index of their number in the table.
pub(crate) const TOPICS: [&str; 10] = [
    "",
    "/tasks/create",
    "/tasks/start",
    "/tasks/oom",
    "/tasks/exit",
    "/tasks/delete",
    "/tasks/exec-added",
    "/tasks/exec-started",
    "/tasks/paused",
    "/tasks/resumed",
];

/// The number of an event in the table.
pub(crate) fn event_number(kind: &EventKind) -> u32 {
    match kind {
        EventKind::Create { .. } => 1,
        EventKind::Start { .. } => 2,
        EventKind::Oom => 3,
        EventKind::Exit { .. } => 4,
        EventKind::Delete { .. } => 5,
        EventKind::ExecAdded { .. } => 6,
        EventKind::ExecStarted { .. } => 7,
        EventKind::Paused => 8,
        EventKind::Resumed => 9,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime_api::{ContainerId, Event, ExitStatus, Pid, SandboxId};
    use std::time::SystemTime;

    const HEADER: &str = include_str!("../include/vmrt.h");

    /// The value of a constant of the header.
    fn constant(name: &str) -> u32 {
        let code: String = HEADER
            .split("/*")
            .map(|part| part.split_once("*/").map_or(part, |(_comment, code)| code))
            .collect();
        let mut words = code.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '='));
        words.find(|word| *word == name).unwrap_or_else(|| panic!("no {name}"));
        let number = words.find(|word| word.starts_with(|c: char| c.is_ascii_digit())).unwrap();
        number.trim_end_matches('u').parse().unwrap()
    }

    #[test]
    fn the_header_has_the_same_numbers() {
        assert_eq!(constant("VMRT_MAJOR"), MAJOR);
        assert_eq!((constant("VMRT_ATTACH"), constant("VMRT_DIAL")), (ATTACH, DIAL));
        for method in runtime_task::Method::ALL {
            let upper = method.name().char_indices().fold(String::new(), |mut name, (at, c)| {
                let before = at.checked_sub(1).and_then(|at| method.name().chars().nth(at));
                if c.is_uppercase() && before.is_some_and(char::is_lowercase) {
                    name.push('_');
                }
                name.push(c.to_ascii_uppercase());
                name
            });
            assert_eq!(constant(&format!("VMRT_{upper}")), *method as u32, "{upper}");
        }
        for (number, topic) in TOPICS.iter().enumerate().skip(1) {
            let name = topic.trim_start_matches("/tasks/").to_uppercase().replace('-', "_");
            assert_eq!(constant(&format!("VMRT_TASK_{name}")) as usize, number, "{topic}");
        }
    }

    #[test]
    fn an_event_has_the_number_of_its_topic() {
        let exit = ExitStatus { code: 0, at: SystemTime::UNIX_EPOCH };
        let kinds = [
            EventKind::Oom,
            EventKind::Paused,
            EventKind::Start { pid: Pid(1) },
            EventKind::Delete { pid: Pid(1), exit },
            EventKind::Exit { exec: None, pid: Pid(1), exit },
        ];
        for kind in kinds {
            let number = event_number(&kind) as usize;
            let (sandbox, container) = ("s", "c");
            let event = Event {
                sandbox: SandboxId::parse(sandbox).unwrap(),
                container: ContainerId::parse(container).unwrap(),
                at: SystemTime::UNIX_EPOCH,
                kind,
            };
            assert_eq!(runtime_task::event_envelope(&event).unwrap().0, TOPICS[number]);
        }
    }

    #[test]
    fn the_structs_have_the_layout_of_the_header() {
        // Compiled from the header by a C compiler in the tests of the suite; here for 64 bits.
        assert_eq!((size_of::<Request>(), size_of::<Outcome>()), (48, 48));
        assert_eq!((size_of::<Options>(), size_of::<Api>()), (48, 80));
    }
}
