//! The methods of the Task service, by their names on the wire.

macro_rules! methods {
    ($($name:ident = $number:literal),* $(,)?) => {
        /// A method of `containerd.task.v2.Task`, numbered in the order of its definition, as the C
        /// table numbers it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Method {
            $(
                #[doc = concat!("`Task.", stringify!($name), "`.")]
                $name = $number,
            )*
        }

        impl Method {
            /// All methods.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The name on the wire.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),* }
            }
        }
    };
}

methods! {
    State = 1,
    Create = 2,
    Start = 3,
    Delete = 4,
    Pids = 5,
    Pause = 6,
    Resume = 7,
    Checkpoint = 8,
    Kill = 9,
    Exec = 10,
    ResizePty = 11,
    CloseIO = 12,
    Update = 13,
    Wait = 14,
    Stats = 15,
    Connect = 16,
    Shutdown = 17,
}

impl Method {
    /// The method with this number.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|method| *method as u32 == number)
    }

    /// Whether it only looks. Looking may be abandoned half way; everything else must be finished
    /// even when its caller has gone.
    pub fn only_looks(self) -> bool {
        matches!(self, Self::State | Self::Pids | Self::Wait | Self::Stats | Self::Connect)
    }
}
