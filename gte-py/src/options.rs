//! `Options`: how a model is opened, for every kind of model.

use std::path::PathBuf;

use gte_core::{Builder, Device, Door, HubOptions, MaxBatchTokens, ModelFiles, Pooling, Precision};
use pyo3::prelude::*;

use crate::errors::to_python;

/// A model and the options with which it is opened.
#[pyclass(module = "gte._gte", frozen)]
pub(crate) struct Options {
    model: PathBuf,
    hub: HubOptions,
    device: Device,
    precision: Option<Precision>,
    threads: Option<usize>,
    max_length: Option<usize>,
    pooling: Option<Pooling>,
    causal: Option<bool>,
    max_batch_tokens: Option<MaxBatchTokens>,
}

#[pymethods]
impl Options {
    #[new]
    #[pyo3(signature = (model, *, device = None, precision = None, threads = None, max_length = None, revision = None, offline = false, pooling = None, causal = None, max_batch_tokens = None, cache_folder = None, token = None))]
    #[allow(clippy::too_many_arguments, reason = "Python's keywords")]
    fn new(
        model: PathBuf,
        device: Option<&str>,
        precision: Option<&str>,
        threads: Option<usize>,
        max_length: Option<usize>,
        revision: Option<String>,
        offline: bool,
        pooling: Option<&str>,
        causal: Option<bool>,
        max_batch_tokens: Option<usize>,
        cache_folder: Option<PathBuf>,
        token: Option<String>,
    ) -> PyResult<Self> {
        let mut hub = HubOptions::from_env().map_err(to_python)?;
        hub.revision = revision;
        hub.offline |= offline;
        if let Some(cache) = cache_folder {
            hub.cache = cache;
        }
        // An empty token means that no token is sent, not even that of the environment.
        if let Some(token) = token {
            hub.token = Some(token).filter(|token| !token.is_empty());
        }
        Ok(Self {
            model,
            hub,
            device: option(device)?.unwrap_or(Device::Auto),
            precision: option(precision)?,
            threads,
            max_length,
            pooling: option(pooling)?,
            causal,
            max_batch_tokens: max_batch_tokens.map(MaxBatchTokens::new).transpose().map_err(to_python)?,
        })
    }
}

impl Options {
    /// The model's files, which are downloaded if necessary and allowed.
    pub(crate) fn files(&self) -> gte_core::Result<ModelFiles> {
        match self.model.to_str() {
            Some(name) => ModelFiles::open(name, &self.hub),
            None => ModelFiles::from_dir(&self.model),
        }
    }

    /// Opens the model as a `D`.
    pub(crate) fn open<D: Door>(&self, files: ModelFiles) -> gte_core::Result<D> {
        let mut builder = Builder::<D>::from_files(files).device(self.device);
        if let Some(max_batch_tokens) = self.max_batch_tokens {
            builder = builder.max_batch_tokens(max_batch_tokens);
        }
        if let Some(precision) = self.precision {
            builder = builder.precision(precision);
        }
        if let Some(pooling) = self.pooling {
            builder = builder.pooling(pooling);
        }
        if let Some(causal) = self.causal {
            builder = builder.causal(causal);
        }
        if let Some(threads) = self.threads {
            builder = builder.threads(threads);
        }
        if let Some(tokens) = self.max_length {
            builder = builder.max_length(tokens);
        }
        builder.build()
    }
}

fn option<T: std::str::FromStr<Err = gte_core::Error>>(value: Option<&str>) -> PyResult<Option<T>> {
    value.map(|value| value.parse::<T>().map_err(to_python)).transpose()
}
