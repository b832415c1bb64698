//! The options of a mount (mount(8)), as the specification lists them.

use nix::libc;
use nix::mount::MsFlags;
use runtime_api::{Error, Result};

use super::calls::Attributes;

/// Options, sorted by who understands them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Options {
    /// Those that every filesystem has, for mount(2).
    pub(super) flags: MsFlags,
    /// Those of a mount, the same ones for mount_setattr(2).
    pub(super) own: Attributes,
    /// Those that hold for everything mounted below as well.
    pub(super) recursive: Attributes,
    /// One of `MS_SHARED` and its kin, and whether it holds below as well.
    pub(super) propagation: Vec<MsFlags>,
    /// Those of the filesystem, separated by commas.
    pub(super) data: String,
    pub(super) bind: Option<Bind>,
}

/// A mount that shows what is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bind {
    Alone,
    Recursive,
}

const ATIME: u64 = libc::MOUNT_ATTR__ATIME;

/// Name, flag of mount(2), attribute, whether the option takes them away. The name with a leading
/// `r` is the recursive form.
const FLAGS: &[(&str, MsFlags, u64, bool)] = &[
    ("ro", MsFlags::MS_RDONLY, libc::MOUNT_ATTR_RDONLY, false),
    ("rw", MsFlags::MS_RDONLY, libc::MOUNT_ATTR_RDONLY, true),
    ("nosuid", MsFlags::MS_NOSUID, libc::MOUNT_ATTR_NOSUID, false),
    ("suid", MsFlags::MS_NOSUID, libc::MOUNT_ATTR_NOSUID, true),
    ("nodev", MsFlags::MS_NODEV, libc::MOUNT_ATTR_NODEV, false),
    ("dev", MsFlags::MS_NODEV, libc::MOUNT_ATTR_NODEV, true),
    ("noexec", MsFlags::MS_NOEXEC, libc::MOUNT_ATTR_NOEXEC, false),
    ("exec", MsFlags::MS_NOEXEC, libc::MOUNT_ATTR_NOEXEC, true),
    ("nodiratime", MsFlags::MS_NODIRATIME, libc::MOUNT_ATTR_NODIRATIME, false),
    ("diratime", MsFlags::MS_NODIRATIME, libc::MOUNT_ATTR_NODIRATIME, true),
    ("noatime", MsFlags::MS_NOATIME, libc::MOUNT_ATTR_NOATIME, false),
    ("atime", MsFlags::MS_NOATIME, libc::MOUNT_ATTR_NOATIME, true),
    ("relatime", MsFlags::MS_RELATIME, libc::MOUNT_ATTR_RELATIME, false),
    ("norelatime", MsFlags::MS_RELATIME, libc::MOUNT_ATTR_RELATIME, true),
    ("strictatime", MsFlags::MS_STRICTATIME, libc::MOUNT_ATTR_STRICTATIME, false),
    ("nostrictatime", MsFlags::MS_STRICTATIME, libc::MOUNT_ATTR_STRICTATIME, true),
    ("nosymfollow", MsFlags::from_bits_retain(256), libc::MOUNT_ATTR_NOSYMFOLLOW, false),
    ("symfollow", MsFlags::from_bits_retain(256), libc::MOUNT_ATTR_NOSYMFOLLOW, true),
];

/// Flags of the filesystem, which no mount has for itself.
const FILESYSTEM_FLAGS: &[(&str, MsFlags, bool)] = &[
    ("defaults", MsFlags::empty(), false),
    ("sync", MsFlags::MS_SYNCHRONOUS, false),
    ("async", MsFlags::MS_SYNCHRONOUS, true),
    ("dirsync", MsFlags::MS_DIRSYNC, false),
    ("mand", MsFlags::MS_MANDLOCK, false),
    ("nomand", MsFlags::MS_MANDLOCK, true),
    ("silent", MsFlags::MS_SILENT, false),
    ("loud", MsFlags::MS_SILENT, true),
    ("iversion", MsFlags::MS_I_VERSION, false),
    ("noiversion", MsFlags::MS_I_VERSION, true),
    ("lazytime", MsFlags::MS_LAZYTIME, false),
    ("nolazytime", MsFlags::MS_LAZYTIME, true),
];

const PROPAGATION: &[(&str, MsFlags)] = &[
    ("shared", MsFlags::MS_SHARED),
    ("slave", MsFlags::MS_SLAVE),
    ("private", MsFlags::MS_PRIVATE),
    ("unbindable", MsFlags::MS_UNBINDABLE),
];

impl Options {
    pub(super) fn parse(options: &[String]) -> Result<Self> {
        let mut parsed = Self {
            flags: MsFlags::empty(),
            own: Attributes::default(),
            recursive: Attributes::default(),
            propagation: Vec::new(),
            data: String::new(),
            bind: None,
        };
        for option in options {
            parsed.add(option)?;
        }
        Ok(parsed)
    }

    fn add(&mut self, option: &str) -> Result<()> {
        match option {
            "bind" => self.bind = self.bind.or(Some(Bind::Alone)),
            "rbind" => self.bind = Some(Bind::Recursive),
            "remount" | "idmap" | "ridmap" | "tmpcopyup" => {
                return Err(Error::unimplemented(format!("mounts.options {option:?} in a guest")));
            }
            _ if self.add_flag(option) => {}
            _ if !self.data.is_empty() => {
                self.data.push(',');
                self.data.push_str(option);
            }
            _ => self.data.push_str(option),
        }
        Ok(())
    }

    fn add_flag(&mut self, option: &str) -> bool {
        let recursive_name = option.strip_prefix('r');
        if let Some((_, flag, attribute, away)) = FLAGS.iter().find(|(name, ..)| *name == option) {
            self.flags.set(*flag, !away);
            self.own.change(*attribute, *away);
        } else if let Some((_, flag, away)) =
            FILESYSTEM_FLAGS.iter().find(|(name, ..)| *name == option)
        {
            self.flags.set(*flag, !away);
        } else if let Some((_, flag)) = PROPAGATION.iter().find(|(name, _)| *name == option) {
            self.propagation.push(*flag);
        } else if let Some((_, flag)) =
            PROPAGATION.iter().find(|(name, _)| Some(*name) == recursive_name)
        {
            self.propagation.push(*flag | MsFlags::MS_REC);
        } else if let Some((_, _, attribute, away)) =
            FLAGS.iter().find(|(name, ..)| Some(*name) == recursive_name)
        {
            self.recursive.change(*attribute, *away);
        } else {
            return false;
        }
        true
    }
}

impl Attributes {
    fn change(&mut self, attribute: u64, away: bool) {
        // The times are one field of several bits, which is cleared as a whole.
        let is_atime = attribute & ATIME != 0 || attribute == libc::MOUNT_ATTR_RELATIME;
        let cleared = if is_atime { ATIME } else { attribute };
        self.set &= !cleared;
        self.clear |= cleared;
        if !away {
            self.set |= attribute;
        }
        // A flag that is set is not cleared as well; the field of times has to be.
        if !away && !is_atime {
            self.clear &= !attribute;
        }
    }

    /// Those that are set, for a mount whose other attributes stay as they are.
    pub(super) fn only_set(self) -> Self {
        Self { set: self.set, clear: self.clear & ATIME }
    }
}

#[cfg(test)]
mod tests {
    use runtime_api::ErrorKind;

    use super::*;

    fn parse(options: &[&str]) -> Result<Options> {
        Options::parse(&options.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_sorted_by_who_understands_them() {
        let options =
            parse(&["nosuid", "strictatime", "mode=755", "size=65536k", "ro", "rw"]).unwrap();
        assert_eq!(options.flags, MsFlags::MS_NOSUID | MsFlags::MS_STRICTATIME);
        assert_eq!(options.data, "mode=755,size=65536k");
        assert_eq!(options.bind, None);
    }

    #[test]
    fn a_bind_mount_keeps_what_it_is_not_asked_to_change() {
        let options = parse(&["rbind", "ro", "suid", "noatime", "rprivate"]).unwrap();
        assert_eq!(options.bind, Some(Bind::Recursive));
        let own = options.own.only_set();
        assert_eq!(own.set, libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOATIME);
        assert_eq!(own.clear, ATIME);
        assert_eq!(options.propagation, [MsFlags::MS_PRIVATE | MsFlags::MS_REC]);
        assert_eq!(parse(&["bind", "rw"]).unwrap().own.only_set(), Attributes::default());
    }

    #[test]
    fn the_recursive_forms_are_kept_apart() {
        let options = parse(&["rbind", "rro", "rnosuid", "rdev"]).unwrap();
        assert_eq!(options.own, Attributes::default());
        let set = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID;
        assert_eq!(options.recursive, Attributes { set, clear: libc::MOUNT_ATTR_NODEV });
    }

    #[test]
    fn what_is_not_done_is_refused() {
        assert_eq!(parse(&["idmap"]).unwrap_err().kind(), ErrorKind::Unimplemented);
    }
}
