//! What a case is.

use std::pin::Pin;

use runtime_api::Capabilities;

use crate::context::Context;

/// The body of a case; it knows the runtime by its trait only.
pub(crate) type Body = for<'a> fn(&'a Context) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

/// An ability that not every runtime has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    Attach,
    Dial,
    Sandbox,
}

impl Need {
    pub(crate) fn met(self, capabilities: Capabilities) -> bool {
        match self {
            Self::Attach => capabilities.attach,
            Self::Dial => capabilities.dial,
            Self::Sandbox => capabilities.sandbox,
        }
    }
}

/// One thing that holds for every runtime that is able to.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    /// A sentence that says what holds.
    pub(crate) name: &'static str,
    /// Where that is written: a row of the shim-v2 contract, an RPC, a method of the trait.
    pub(crate) clause: &'static str,
    /// What the runtime must be able to do.
    pub(crate) needs: &'static [Need],
    /// Why it cannot pass yet; it is not run then.
    pub(crate) pending: Option<&'static str>,
    pub(crate) body: Body,
}

impl Case {
    #[must_use]
    pub(crate) const fn needs(self, needs: &'static [Need]) -> Self {
        Self { needs, ..self }
    }

    #[must_use]
    pub(crate) const fn pending(self, why: &'static str) -> Self {
        Self { pending: Some(why), ..self }
    }
}

/// A case of a name, a clause and an async function.
macro_rules! case {
    ($name:literal, $clause:literal, $body:path) => {
        $crate::case::Case {
            name: $name,
            clause: $clause,
            needs: &[],
            pending: None,
            body: |context| Box::pin($body(context)),
        }
    };
}
pub(crate) use case;
