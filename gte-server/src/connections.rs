//! How many connections may be open: one more is closed at once, before a byte of it is read.

use std::sync::Arc;
use std::task::{Context, Poll};

use axum_server::accept::Accept;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::Service;

use crate::metrics::Metrics;

/// Room for connections.
#[derive(Clone)]
pub(crate) struct Room {
    places: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

impl Room {
    pub(crate) fn new(connections: usize, metrics: Arc<Metrics>) -> Self {
        Self { places: Arc::new(Semaphore::new(connections.min(Semaphore::MAX_PERMITS))), metrics }
    }
}

impl<I, S> Accept<I, S> for Room {
    type Stream = I;
    type Service = Placed<S>;
    type Future = std::future::Ready<std::io::Result<(I, Placed<S>)>>;

    fn accept(&self, stream: I, service: S) -> Self::Future {
        let result = match self.places.clone().try_acquire_owned() {
            Ok(permit) => {
                let place = Place { _permit: permit, metrics: self.metrics.clone() };
                self.metrics.connections.inc();
                Ok((stream, Placed { service, _place: Arc::new(place) }))
            }
            Err(_) => {
                self.metrics.refused_connections.inc();
                Err(std::io::Error::other("--max-connections are open"))
            }
        };
        std::future::ready(result)
    }
}

/// A connection's place, free again when its service is dropped.
struct Place {
    _permit: OwnedSemaphorePermit,
    metrics: Arc<Metrics>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.metrics.connections.dec();
    }
}

/// The service of one connection, which lives as long as that does.
#[derive(Clone)]
pub(crate) struct Placed<S> {
    service: S,
    _place: Arc<Place>,
}

impl<R, S: Service<R>> Service<R> for Placed<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> S::Future {
        self.service.call(request)
    }
}
