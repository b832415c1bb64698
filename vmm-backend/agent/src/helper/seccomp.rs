//! The seccomp filter of a container: translated once, loaded by each of its processes.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;

use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall,
};
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use runtime_api::{Error, Result, ResultExt};

use super::calls;
use super::spec::Object;

/// A filter as the kernel takes it.
#[derive(Debug)]
pub(super) struct Filter {
    flags: u32,
    /// `struct sock_filter`, eight bytes each.
    program: Vec<u8>,
}

impl Filter {
    /// Translates the `linux.seccomp` object.
    pub(super) fn compile(seccomp: Object<'_>) -> Result<Self> {
        seccomp.refuse(&["linux.seccomp.listenerPath"])?;
        let default = action(
            seccomp.required("linux.seccomp.defaultAction")?,
            seccomp.number("linux.seccomp.defaultErrnoRet")?,
        )?;
        let failed = || "translate the seccomp filter";
        let mut context = ScmpFilterContext::new(default).internal(failed)?;
        for name in seccomp.texts("linux.seccomp.architectures")? {
            let arch = architecture(&name)?;
            context.add_arch(arch).internal(failed)?;
        }
        for rule in seccomp.objects("linux.seccomp.syscalls")? {
            add_rule(&mut context, rule, default)?;
        }
        let mut file = memory()?;
        context.export_bpf(&file).internal(failed)?;
        let mut program = Vec::new();
        file.rewind().and_then(|()| file.read_to_end(&mut program)).internal(failed)?;
        Ok(Self { flags: flags(seccomp)?, program })
    }

    /// Writes it down for those who join the container later.
    pub(super) fn save(&self) -> Result<OwnedFd> {
        let mut file = memory()?;
        file.write_all(&self.flags.to_ne_bytes())
            .and_then(|()| file.write_all(&self.program))
            .internal(|| "save the seccomp filter")?;
        Ok(file.into())
    }

    /// Reads what [`Filter::save`] has written.
    pub(super) fn restore(saved: OwnedFd) -> Result<Self> {
        let mut file = File::from(saved);
        let mut flags = [0; 4];
        let mut program = Vec::new();
        // The descriptor is a copy, whose position others have moved.
        file.rewind()
            .and_then(|()| file.read_exact(&mut flags))
            .and_then(|()| file.read_to_end(&mut program))
            .internal(|| "read the seccomp filter")?;
        Ok(Self { flags: u32::from_ne_bytes(flags), program })
    }

    /// Puts this process under the filter.
    pub(super) fn load(&self) -> Result<()> {
        calls::load_filter(&self.program, self.flags).internal(|| "load the seccomp filter")
    }
}

fn memory() -> Result<File> {
    memfd_create("filter", MFdFlags::MFD_CLOEXEC)
        .map(File::from)
        .internal(|| "make a file for the seccomp filter")
}

fn add_rule(context: &mut ScmpFilterContext, rule: Object<'_>, default: ScmpAction) -> Result<()> {
    let action = action(
        rule.required("linux.seccomp.syscalls.action")?,
        rule.number("linux.seccomp.syscalls.errnoRet")?,
    )?;
    // Redundant, and refused by the library.
    if action == default {
        return Ok(());
    }
    let arguments = rule
        .objects("linux.seccomp.syscalls.args")?
        .into_iter()
        .map(comparison)
        .collect::<Result<Vec<_>>>()?;
    for name in rule.texts("linux.seccomp.syscalls.names")? {
        // What the library does not know, this kernel does not have.
        let Ok(syscall) = ScmpSyscall::from_name(&name) else { continue };
        let added = match &arguments[..] {
            [] => context.add_rule(action, syscall),
            _ if repeats_an_argument(rule)? => arguments
                .iter()
                .try_for_each(|argument| {
                    context
                        .add_rule_conditional(action, syscall, std::slice::from_ref(argument))
                        .map(drop)
                })
                .map(|()| &mut *context),
            _ => context.add_rule_conditional(action, syscall, &arguments),
        };
        added.internal(|| format!("add a seccomp rule for {name}"))?;
    }
    Ok(())
}

/// A rule compares each argument once; as in the reference runtime, one that does so more than once
/// is several rules.
fn repeats_an_argument(rule: Object<'_>) -> Result<bool> {
    let mut seen = [false; 6];
    for argument in rule.objects("linux.seccomp.syscalls.args")? {
        let index: usize = argument.number("linux.seccomp.syscalls.args.index")?.unwrap_or(0);
        match seen.get_mut(index) {
            Some(seen) if !*seen => *seen = true,
            _ => return Ok(true),
        }
    }
    Ok(false)
}

fn comparison(argument: Object<'_>) -> Result<ScmpArgCompare> {
    let number = |name: &str| -> Result<u64> { Ok(argument.number(name)?.unwrap_or(0)) };
    let index = number("linux.seccomp.syscalls.args.index")?;
    let value = number("linux.seccomp.syscalls.args.value")?;
    let second = number("linux.seccomp.syscalls.args.valueTwo")?;
    let (operator, datum) = match argument.required("linux.seccomp.syscalls.args.op")? {
        "SCMP_CMP_NE" => (ScmpCompareOp::NotEqual, value),
        "SCMP_CMP_LT" => (ScmpCompareOp::Less, value),
        "SCMP_CMP_LE" => (ScmpCompareOp::LessOrEqual, value),
        "SCMP_CMP_EQ" => (ScmpCompareOp::Equal, value),
        "SCMP_CMP_GE" => (ScmpCompareOp::GreaterEqual, value),
        "SCMP_CMP_GT" => (ScmpCompareOp::Greater, value),
        "SCMP_CMP_MASKED_EQ" => (ScmpCompareOp::MaskedEqual(value), second),
        other => {
            let message = format!("linux.seccomp.syscalls.args.op cannot be {other:?}");
            return Err(Error::invalid_argument(message));
        }
    };
    let index = u32::try_from(index).internal(|| "linux.seccomp.syscalls.args.index")?;
    Ok(ScmpArgCompare::new(index, operator, datum))
}

fn action(name: &str, errno: Option<i32>) -> Result<ScmpAction> {
    let errno = errno.unwrap_or(libc::EPERM);
    Ok(match name {
        "SCMP_ACT_ALLOW" => ScmpAction::Allow,
        "SCMP_ACT_ERRNO" => ScmpAction::Errno(errno),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => ScmpAction::KillThread,
        "SCMP_ACT_KILL_PROCESS" => ScmpAction::KillProcess,
        "SCMP_ACT_LOG" => ScmpAction::Log,
        "SCMP_ACT_TRACE" => ScmpAction::Trace(u16::try_from(errno).unwrap_or(u16::MAX)),
        "SCMP_ACT_TRAP" => ScmpAction::Trap,
        "SCMP_ACT_NOTIFY" => {
            return Err(Error::unimplemented("linux.seccomp: SCMP_ACT_NOTIFY in a guest"));
        }
        other => {
            return Err(Error::invalid_argument(format!("linux.seccomp: no action {other:?}")));
        }
    })
}

fn architecture(name: &str) -> Result<ScmpArch> {
    name.parse().map_err(|_| {
        Error::invalid_argument(format!("linux.seccomp.architectures cannot be {name:?}"))
    })
}

fn flags(seccomp: Object<'_>) -> Result<u32> {
    let mut flags = 0;
    for name in seccomp.texts("linux.seccomp.flags")? {
        flags |= match name.as_str() {
            // There is one thread.
            "SECCOMP_FILTER_FLAG_TSYNC" => 0,
            "SECCOMP_FILTER_FLAG_LOG" => libc::SECCOMP_FILTER_FLAG_LOG,
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            other => {
                let message = format!("linux.seccomp.flags {other:?} in a guest");
                return Err(Error::unimplemented(message));
            }
        } as u32;
    }
    Ok(flags)
}

#[cfg(test)]
mod tests {
    use runtime_api::ErrorKind;
    use serde_json::{Value, json};

    use super::*;

    fn compile(value: &Value) -> Result<Filter> {
        Filter::compile(Object::of(value, "linux.seccomp").unwrap())
    }

    #[test]
    fn a_filter_becomes_a_program() {
        let filter = compile(&json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [
                {"names": ["mkdir", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
                {"names": ["personality"], "action": "SCMP_ACT_KILL", "args": [
                    {"index": 0, "value": 8, "op": "SCMP_CMP_EQ"},
                    {"index": 0, "value": 9, "op": "SCMP_CMP_EQ"}
                ]}
            ]
        }))
        .unwrap();
        assert!(filter.program.len() > 64 && filter.program.len().is_multiple_of(8));
        assert_eq!(filter.flags, 2);
        let restored = Filter::restore(filter.save().unwrap()).unwrap();
        assert_eq!((restored.flags, restored.program), (filter.flags, filter.program));
    }

    #[test]
    fn a_filter_that_cannot_be_had_is_refused() {
        for (value, kind) in [
            (json!({"defaultAction": "SCMP_ACT_NOTIFY"}), ErrorKind::Unimplemented),
            (json!({"defaultAction": "X"}), ErrorKind::InvalidArgument),
            (
                json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["X"]}),
                ErrorKind::InvalidArgument,
            ),
            (
                json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x"}),
                ErrorKind::Unimplemented,
            ),
        ] {
            assert_eq!(compile(&value).unwrap_err().kind(), kind, "{value}");
        }
    }
}
