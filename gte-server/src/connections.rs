//! Limits the number of open connections. One more is closed at once, before any byte of it is
//! read.

use std::sync::Arc;
use std::task::{Context, Poll};

use axum_server::accept::Accept;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::Service;

use crate::metrics::Metrics;

/// The connections that may still be opened.
#[derive(Clone)]
pub(crate) struct Room {
    permits: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

impl Room {
    pub(crate) fn new(connections: usize, metrics: Arc<Metrics>) -> Self {
        Self { permits: Arc::new(Semaphore::new(connections.min(Semaphore::MAX_PERMITS))), metrics }
    }
}

impl<I, S> Accept<I, S> for Room {
    type Stream = I;
    type Service = CountedService<S>;
    type Future = std::future::Ready<std::io::Result<(I, CountedService<S>)>>;

    fn accept(&self, stream: I, service: S) -> Self::Future {
        let result = match self.permits.clone().try_acquire_owned() {
            Ok(permit) => {
                let permit = ConnectionPermit { _permit: permit, metrics: self.metrics.clone() };
                self.metrics.connections.inc();
                Ok((stream, CountedService { service, _permit: Arc::new(permit) }))
            }
            Err(_) => {
                self.metrics.refused_connections.inc();
                Err(std::io::Error::other("the limit of --max-connections is reached"))
            }
        };
        std::future::ready(result)
    }
}

/// One connection's share of the limit, returned when its service is dropped.
struct ConnectionPermit {
    _permit: OwnedSemaphorePermit,
    metrics: Arc<Metrics>,
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.metrics.connections.dec();
    }
}

/// The service of one connection, which lives as long as the connection.
#[derive(Clone)]
pub(crate) struct CountedService<S> {
    service: S,
    _permit: Arc<ConnectionPermit>,
}

impl<R, S: Service<R>> Service<R> for CountedService<S> {
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
