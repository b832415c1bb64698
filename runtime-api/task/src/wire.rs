//! The two ends over ttrpc.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use runtime_api::{Error, Result};
use ttrpc::r#async::{Client, MethodHandler, Service, TtrpcContext};
use ttrpc::proto::{Request, Response, Status};

use crate::convert::{code_of, kind_of};
use crate::{Method, TaskServer, Transport};

/// The names of the Task service. The messages of both versions are the same; containerd 2 asks for
/// v3 and everyone else for v2.
const SERVICES: [&str; 2] = ["containerd.task.v2.Task", "containerd.task.v3.Task"];

/// The Task service for a ttrpc server, under every name it is asked for.
pub fn ttrpc_services(server: TaskServer) -> HashMap<String, Service> {
    let server = Arc::new(server);
    let handler = |method: Method| {
        let handler: Box<dyn MethodHandler + Send + Sync> =
            Box::new(Handler { server: Arc::clone(&server), method });
        (method.name().to_owned(), handler)
    };
    let service = |name: &str| {
        let methods = Method::ALL.iter().copied().map(handler).collect();
        (name.to_owned(), Service { methods, streams: HashMap::new() })
    };
    SERVICES.into_iter().map(service).collect()
}

struct Handler {
    server: Arc<TaskServer>,
    method: Method,
}

#[async_trait]
impl MethodHandler for Handler {
    async fn handler(&self, _context: TtrpcContext, request: Request) -> ttrpc::Result<Response> {
        let answer = if self.method.only_looks() {
            self.server.dispatch(self.method, &request.payload).await
        } else {
            // ttrpc drops this future when its connection closes or its deadline passes, but a
            // change of state that has begun must come to its end.
            let (server, method) = (Arc::clone(&self.server), self.method);
            tokio::spawn(async move { server.dispatch(method, &request.payload).await })
                .await
                .unwrap_or_else(|source| Err(Error::internal("the call broke").with_source(source)))
        };
        let mut response = Response::new();
        match answer {
            Ok(payload) => response.payload = payload,
            Err(error) => {
                log::debug!("{}: {}", self.method.name(), error.chain());
                response.set_status(status_of(&error));
            }
        }
        Ok(response)
    }
}

/// The ttrpc status that tells a peer of an error.
pub fn status_of(error: &Error) -> Status {
    let mut status = Status::new();
    status.set_code(code_of(error.kind()));
    status.set_message(error.chain());
    status
}

/// Calls the Task service at the other end of a ttrpc connection.
pub struct TtrpcTransport {
    client: Client,
    service: &'static str,
}

impl TtrpcTransport {
    /// Uses `client`; clones of it may serve other purposes at the same time.
    pub fn new(client: Client) -> Self {
        Self { client, service: SERVICES[1] }
    }

    /// As [`new`](Self::new), by the name that shims of every age know.
    pub fn to_shim(client: Client) -> Self {
        Self { client, service: SERVICES[0] }
    }
}

#[async_trait]
impl Transport for TtrpcTransport {
    async fn call(
        &self,
        method: Method,
        payload: Vec<u8>,
        deadline: Option<Duration>,
    ) -> Result<Vec<u8>> {
        let request = Request {
            service: self.service.to_owned(),
            method: method.name().to_owned(),
            payload,
            ..Default::default()
        };
        let call = self.client.request(request);
        let answer = match deadline {
            None => call.await,
            // The deadline is kept here and not by ttrpc, which closes the whole connection when it
            // passes in the middle of a write.
            Some(deadline) => tokio::time::timeout(deadline, call).await.map_err(|_| {
                Error::deadline_exceeded(format!("{} took over {deadline:?}", method.name()))
            })?,
        };
        answer.map(|response| response.payload).map_err(|error| error_of(method.name(), error))
    }
}

/// The error that a failed ttrpc call tells of.
pub fn error_of(call: &str, error: ttrpc::Error) -> Error {
    match error {
        ttrpc::Error::RpcStatus(status) => Error::new(kind_of(status.code()), status.message),
        gone => Error::unavailable(format!("{call}: the peer is gone")).with_source(gone),
    }
}
