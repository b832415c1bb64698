//! Nobody in before `Resume`: a guest without an identity refuses every other call.
//!
//! And nobody out after the next one: a host that comes may have taken the place of one that died so
//! fast that this guest saw one connection only. What the dead one has asked for is given up, and not
//! answered: its calls have the numbers that those of the living one will have.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use runtime_api::{Error, Result};
use runtime_task::status_of;
use tokio::sync::watch;
use ttrpc::r#async::{MethodHandler, Service, TtrpcContext};
use ttrpc::proto::{Request, Response};

use crate::identity::Identity;

/// The one method that passes a closed gate.
const OPENING_METHOD: &str = "Resume";

/// Closed until an identity opens it.
#[derive(Default)]
pub(crate) struct Gate {
    identity: Mutex<Option<Identity>>,
    /// How many hosts there have been.
    hosts: watch::Sender<u64>,
}

impl Gate {
    /// Whether the guest has the identity of `candidate` already.
    ///
    /// # Errors
    /// `FailedPrecondition` when it has another one.
    pub(crate) fn is_open_to(&self, candidate: &Identity) -> Result<bool> {
        match &*self.identity.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(false),
            Some(identity) if identity == candidate => Ok(true),
            Some(identity) => Err(Error::failed_precondition(format!(
                "this guest is sandbox {} already and cannot become {}",
                identity.sandbox, candidate.sandbox
            ))),
        }
    }

    /// Lets every call pass from now on.
    pub(crate) fn open(&self, identity: Identity) {
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = Some(identity);
    }

    /// Gives up what earlier hosts have asked for.
    pub(crate) fn forget_hosts(&self) {
        self.hosts.send_modify(|hosts| *hosts += 1);
    }

    fn is_open(&self) -> bool {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Puts the gate before every method of `services`.
    pub(crate) fn guard(
        self: &Arc<Self>,
        services: HashMap<String, Service>,
    ) -> HashMap<String, Service> {
        let guard = |(name, inner): (String, Box<dyn MethodHandler + Send + Sync>)| {
            let guarded: Box<dyn MethodHandler + Send + Sync> = if name == OPENING_METHOD {
                inner
            } else {
                Box::new(Guarded { gate: Arc::clone(self), inner })
            };
            (name, guarded)
        };
        // No service of ours streams; a stream would need a guard of its own kind.
        let guard_service = |service: Service| Service {
            methods: service.methods.into_iter().map(guard).collect(),
            streams: HashMap::new(),
        };
        services.into_iter().map(|(name, service)| (name, guard_service(service))).collect()
    }
}

struct Guarded {
    gate: Arc<Gate>,
    inner: Box<dyn MethodHandler + Send + Sync>,
}

#[async_trait]
impl MethodHandler for Guarded {
    async fn handler(&self, context: TtrpcContext, request: Request) -> ttrpc::Result<Response> {
        if self.gate.is_open() {
            let mut hosts = self.gate.hosts.subscribe();
            tokio::select! {
                biased;
                // It cannot fail: the gate lives as long as its guards.
                _ = hosts.changed() => {}
                answer = self.inner.handler(context, request) => return answer,
            }
            // Until the connection ends, for to return is to answer.
            return std::future::pending().await;
        }
        let mut response = Response::new();
        response.set_status(status_of(&Error::failed_precondition(format!(
            "{} before {OPENING_METHOD}: this guest has no identity yet",
            request.method
        ))));
        Ok(response)
    }
}
