//! Faults that are put between a case and its runtime, to see that the case finds them.

use std::fs::{self, File};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use runtime_api::{
    CreateContainer, Endpoint, Error, ErrorKind, Event, EventKind, EventStream, ExitStatus, Result,
};

/// Something that a runtime could do wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    WrongCode,
    WrongKind,
    SwappedEvents,
    LostOutput,
}

impl Fault {
    /// Each with the case that must find it.
    pub(crate) const ALL: [(Self, &'static str); 4] = [
        (Self::WrongCode, "exit codes from 0 to 255 arrive"),
        (Self::WrongKind, "state of an unknown container is not found"),
        (Self::SwappedEvents, "a container runs: exit code, both streams, events"),
        (Self::LostOutput, "a log file is appended to"),
    ];
}

/// Puts at most one fault into what passes through it.
pub(crate) struct Faults {
    fault: Option<Fault>,
    log: Mutex<Option<PathBuf>>,
}

impl Faults {
    pub(crate) fn new(fault: Option<Fault>) -> Self {
        Self { fault, log: Mutex::default() }
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    pub(crate) fn creation(&self, request: &CreateContainer) {
        if let Endpoint::File(path) = &request.stdio.stdout {
            *self.log.lock().unwrap() = Some(path.clone());
        }
    }

    pub(crate) fn exit(&self, exit: ExitStatus) -> ExitStatus {
        let wrong = u32::from(self.has(Fault::WrongCode));
        ExitStatus { code: exit.code + wrong, ..exit }
    }

    pub(crate) fn answer<T>(&self, answer: Result<T>) -> Result<T> {
        answer.map_err(|error| match error.kind() {
            ErrorKind::NotFound if self.has(Fault::WrongKind) => Error::internal(error.chain()),
            _ => error,
        })
    }

    /// Takes the last byte out of a log, as if the end had not been waited for.
    pub(crate) fn deletion(&self) {
        let log = self.log.lock().unwrap().take();
        let Some(path) = log.filter(|_| self.has(Fault::LostOutput)) else { return };
        let length = fs::metadata(&path).unwrap().len().saturating_sub(1);
        File::options().write(true).open(path).unwrap().set_len(length).unwrap();
    }

    pub(crate) fn events(&self, stream: EventStream) -> EventStream {
        match self.has(Fault::SwappedEvents) {
            true => Box::pin(Swapped { stream, held: None, due: false }),
            false => stream,
        }
    }
}

/// Events of which each start comes after what should follow it.
struct Swapped {
    stream: EventStream,
    held: Option<Event>,
    due: bool,
}

impl Stream for Swapped {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        if std::mem::take(&mut self.due) {
            return Poll::Ready(self.held.take());
        }
        loop {
            match ready!(self.stream.as_mut().poll_next(context)) {
                Some(event) if matches!(event.kind, EventKind::Start { .. }) => {
                    self.held = Some(event);
                }
                Some(event) => {
                    self.due = self.held.is_some();
                    return Poll::Ready(Some(event));
                }
                None => return Poll::Ready(self.held.take()),
            }
        }
    }
}
