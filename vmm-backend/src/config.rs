//! The configuration of the backend: one small file, each key with a default.

use std::path::{Path, PathBuf};
use std::time::Duration;

use runtime_api::{Error, ErrorKind, Result, ResultExt, RuntimeOptions};
use serde::Deserialize;

use crate::vmm::Mebibytes;
use crate::vmm::qemu::AcceleratorChoice;

/// Names the configuration file when no other is asked for.
pub const CONFIG_VARIABLE: &str = "VMRT_CONFIG";
/// The configuration file when `VMRT_CONFIG` is not set; it may be absent.
pub const CONFIG_PATH: &str = "/etc/vmrt/config.toml";

/// What an operator can set, in TOML. An unknown key is an error that names it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The directory that holds `vmlinux` and `initramfs.img`.
    /// Default: `/usr/local/share/vmrt/guest-image`.
    pub guest_image: PathBuf,
    /// The hypervisor. Default: `qemu-system-x86_64` in `PATH`.
    pub qemu: Option<PathBuf>,
    /// How guests are executed. Default: `auto`.
    pub accelerator: AcceleratorChoice,
    /// Virtual CPUs of a sandbox. Default: 1.
    pub vcpus: u32,
    /// Memory of a sandbox in MiB. Default: 512.
    pub memory_mib: u32,
    /// Words added to the guest's kernel command line. Default: none.
    pub kernel_parameters: Vec<String>,
    /// Whether sandboxes are clones of a machine that has booted once. Default: `true`.
    pub templates: bool,
    /// Where the templates of this host are. Default: `/run/vmrt/templates`.
    pub template_dir: PathBuf,
    /// Seconds from the start of the hypervisor to the agent's first answer. Default: 60.
    pub boot_timeout_s: u32,
    /// Seconds that the guest may take for one request. Default: 30.
    pub request_timeout_s: u32,
    /// Seconds of silence after which a guest is taken for frozen, and its machine ended; at least 2.
    /// Default: 30.
    pub heartbeat_timeout_s: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            guest_image: "/usr/local/share/vmrt/guest-image".into(),
            qemu: None,
            accelerator: AcceleratorChoice::Auto,
            vcpus: 1,
            memory_mib: 512,
            kernel_parameters: Vec::new(),
            templates: true,
            template_dir: "/run/vmrt/templates".into(),
            boot_timeout_s: 60,
            request_timeout_s: 30,
            heartbeat_timeout_s: 30,
        }
    }
}

impl Config {
    /// Reads the file that `VMRT_CONFIG` names, else `/etc/vmrt/config.toml`, else the defaults.
    ///
    /// # Errors
    /// `InvalidArgument` naming the file and what is wrong with it.
    pub fn load() -> Result<Self> {
        match std::env::var_os(CONFIG_VARIABLE) {
            Some(path) => Self::read(Path::new(&path)),
            None if Path::new(CONFIG_PATH).exists() => Self::read(Path::new(CONFIG_PATH)),
            None => Ok(Self::default()),
        }
    }

    /// This configuration, or the one that came with a request in its place.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn with_options(&self, options: &RuntimeOptions) -> Result<Self> {
        match (&options.config_body, &options.config_path) {
            (Some(body), _) => Self::parse(body, "the runtime options"),
            (None, Some(path)) => Self::read(path),
            (None, None) => Ok(self.clone()),
        }
    }

    /// Reads this file.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).kind(ErrorKind::InvalidArgument, || {
            format!("read configuration {}", path.display())
        })?;
        Self::parse(&text, &path.display().to_string())
    }

    fn parse(text: &str, origin: &str) -> Result<Self> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let line = error.message().replace('\n', " ");
            Error::invalid_argument(format!("configuration in {origin}: {line}"))
        })?;
        let positive = |key: &str, value: u32| match value {
            0 => Err(Error::invalid_argument(format!("configuration in {origin}: {key} is 0"))),
            _ => Ok(()),
        };
        positive("vcpus", config.vcpus)?;
        positive("memory_mib", config.memory_mib)?;
        positive("boot_timeout_s", config.boot_timeout_s)?;
        positive("request_timeout_s", config.request_timeout_s)?;
        if config.heartbeat_timeout_s < 2 {
            let message = format!("configuration in {origin}: heartbeat_timeout_s is less than 2");
            return Err(Error::invalid_argument(message));
        }
        Ok(config)
    }

    pub(crate) fn memory(&self) -> Mebibytes {
        Mebibytes(self.memory_mib)
    }

    pub(crate) fn boot_deadline(&self) -> Duration {
        Duration::from_secs(self.boot_timeout_s.into())
    }

    pub(crate) fn request_deadline(&self) -> Duration {
        Duration::from_secs(self.request_timeout_s.into())
    }

    pub(crate) fn heartbeat_deadline(&self) -> Duration {
        Duration::from_secs(self.heartbeat_timeout_s.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_means_the_documented_defaults() {
        let config = Config::parse("", "test").unwrap();
        assert_eq!(config, Config::default());
        assert_eq!((config.vcpus, config.memory_mib), (1, 512));
        assert_eq!(config.accelerator, AcceleratorChoice::Auto);
        assert_eq!((config.boot_timeout_s, config.request_timeout_s), (60, 30));
        assert_eq!(config.heartbeat_timeout_s, 30);
        assert_eq!(config.guest_image, Path::new("/usr/local/share/vmrt/guest-image"));
        assert_eq!(config.qemu, None);
        assert!(config.kernel_parameters.is_empty());
        assert!(config.templates);
        assert_eq!(config.template_dir, Path::new("/run/vmrt/templates"));
    }

    #[test]
    fn each_key_is_read() {
        let text = r#"
            guest_image = "/g"
            qemu = "/q"
            accelerator = "tcg"
            vcpus = 2
            memory_mib = 64
            kernel_parameters = ["quiet"]
            templates = false
            template_dir = "/t"
            boot_timeout_s = 3
            request_timeout_s = 4
            heartbeat_timeout_s = 5
        "#;
        let expected = Config {
            guest_image: "/g".into(),
            qemu: Some("/q".into()),
            accelerator: AcceleratorChoice::Tcg,
            vcpus: 2,
            memory_mib: 64,
            kernel_parameters: vec!["quiet".into()],
            templates: false,
            template_dir: "/t".into(),
            boot_timeout_s: 3,
            request_timeout_s: 4,
            heartbeat_timeout_s: 5,
        };
        assert_eq!(Config::parse(text, "test").unwrap(), expected);
    }

    #[test]
    fn a_mistake_is_named_in_one_line() {
        for (text, word) in [
            ("colour = 1", "colour"),
            ("vcpus = 0", "vcpus"),
            ("accelerator = \"x\"", "x"),
            ("heartbeat_timeout_s = 1", "heartbeat_timeout_s"),
        ] {
            let error = Config::parse(text, "/etc/vmrt/config.toml").unwrap_err().chain();
            assert!(error.contains(word) && error.contains("/etc/vmrt/config.toml"), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
