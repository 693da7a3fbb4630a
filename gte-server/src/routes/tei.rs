//! The API of text-embeddings-inference, which SageMaker uses too, under other paths.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use gte_core::Outputs;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Shared, native, operation};
use crate::api::tei::*;
use crate::api::vectors::{OutputType, bytes, raw_bytes, typed, wants_bytes};
use crate::api::{EncodingFormat, TeiRefused, Texts, prompt_choice};
use crate::body::{Checked, RawBody};
use crate::error::Error;
use crate::json;
use crate::reading::Reading;
use crate::registry::{Model, Need};
use crate::service::Service;

/// The routes that require an API key, if keys are configured.
pub(super) fn routes() -> OpenApiRouter<Arc<Service>> {
    OpenApiRouter::new()
        .routes(routes!(any))
        .routes(routes!(embed))
        .routes(routes!(embed_all))
        .routes(routes!(similarity))
        .routes(routes!(tokenize))
        .routes(routes!(decode))
        .routes(routes!(info))
        .routes(routes!(embed_sparse))
        // SageMaker's path.
        .route("/invocations", post(any))
}

/// The routes for probes.
pub(super) fn open_routes() -> OpenApiRouter<Arc<Service>> {
    // SageMaker's path.
    OpenApiRouter::new().routes(routes!(health)).route("/ping", get(health))
}

/// For clients that only have the server's address: like `/similarity` if `inputs` is an object,
/// otherwise like `/embed`.
#[utoipa::path(post, path = "/", tag = "text-embeddings-inference", request_body = AnyRequest, responses((status = 200, description = "OK", content((AnyResponse = "application/json"), (String = "application/octet-stream"))), TeiRefused), security(("bearer" = []), ()))]
async fn any(service: Shared, headers: HeaderMap, RawBody(body): RawBody) -> Result<Response, Error> {
    match json::parse_any::<json::Object<Kind>>(&body) {
        Ok(json::Object(Kind { inputs: Shape::Object })) => similarity(service, Checked(json::parse(&body)?)).await,
        _ => embed(service, headers, Checked(json::parse(&body)?)).await,
    }
}

/// Embeds texts. With `Accept: application/octet-stream` the response is raw bytes, as at
/// `/v1/embeddings`.
#[utoipa::path(post, path = "/embed", tag = "text-embeddings-inference", request_body = EmbedRequest, responses((status = 200, description = "OK", content((Vec<Vec<f32>> = "application/json"), (String = "application/octet-stream"))), TeiRefused), security(("bearer" = []), ()))]
async fn embed(
    State(service): Shared,
    headers: HeaderMap,
    Checked(request): Checked<EmbedRequest>,
) -> Result<Response, Error> {
    if request.encoding_format == Some(EncodingFormat::Base64) {
        return Err(Error::field(
            "encoding_format",
            "only lists of numbers are supported here; base64 is available at /v1/embeddings",
        ));
    }
    let EmbedRequest { inputs, prompt_name, prompt, input_type, truncate, truncation_direction: side, .. } = request;
    let model = service.pick(request.model.as_deref(), Need::Vectors)?;
    let reading = Reading { prompt: prompt_choice(prompt_name, prompt, input_type)?, truncate, side };
    let computed = service.embed(&model, inputs, reading, Outputs::DENSE, "inputs").await?;
    if request.normalize == Some(false) {
        if request.output_dtype.is_some_and(|kind| kind != OutputType::Float) {
            return Err(Error::field(
                "output_dtype",
                "vectors with fewer bits always have unit length: leave out `normalize`",
            ));
        }
        let raw = computed.raw(&model, request.dimensions)?;
        let headers_of_answer = computed.headers.clone();
        return Ok(match wants_bytes(&headers) {
            true => (headers_of_answer, raw_bytes(&raw)).into_response(),
            false => (headers_of_answer, Json(raw)).into_response(),
        });
    }
    let (vectors, kind) = (computed.vectors(&model, request.dimensions)?, request.output_dtype.unwrap_or_default());
    match wants_bytes(&headers) {
        true => Ok((computed.headers, bytes(&vectors, kind)).into_response()),
        false => Ok((computed.headers, Json(typed(&vectors, kind))).into_response()),
    }
}

/// Computes the vector of each token, before pooling.
#[utoipa::path(post, path = "/embed_all", tag = "text-embeddings-inference", request_body = EmbedAllRequest, responses((status = 200, description = "OK", body = Vec<Vec<Vec<f32>>>), TeiRefused), security(("bearer" = []), ()))]
async fn embed_all(State(service): Shared, Checked(request): Checked<EmbedAllRequest>) -> Result<Response, Error> {
    let EmbedAllRequest { inputs, prompt_name, prompt, input_type, truncate, truncation_direction: side, model } =
        request;
    let model = service.pick(model.as_deref(), Need::Vectors)?;
    let reading = Reading { prompt: prompt_choice(prompt_name, prompt, input_type)?, truncate, side };
    let read = service.read(&model, inputs, reading, "inputs").await?;
    read.check_states()?;
    let computed = service.compute(&model, read, Outputs::NONE.with_states(true)).await?;
    let width = model.engine().config().hidden;
    let states: Vec<Vec<&[f32]>> = computed.made.iter().map(|text| text.states.chunks_exact(width).collect()).collect();
    Ok((computed.headers.clone(), Json(states)).into_response())
}

/// Computes the cosine of the source and each sentence.
#[utoipa::path(post, path = "/similarity", operation_id = "tei_similarity", tag = "text-embeddings-inference", request_body = SimilarityRequest, responses((status = 200, description = "OK", body = Vec<f32>), TeiRefused), security(("bearer" = []), ()))]
async fn similarity(State(service): Shared, Checked(request): Checked<SimilarityRequest>) -> Result<Response, Error> {
    let SimilarityInputs { source_sentence, sentences } = request.inputs;
    let SimilarityParameters { prompt_name, truncate, truncation_direction: side, model } =
        request.parameters.unwrap_or_default();
    let model = service.pick(model.as_deref(), Need::Vectors)?;
    let reading = Reading { prompt: prompt_choice(prompt_name, None, None)?, truncate, side };
    let (scores, headers) =
        native::compare(&service, &model, source_sentence, sentences, reading, "inputs.sentences").await?;
    Ok((headers, Json(scores)).into_response())
}

/// Tokenizes texts without truncating them, and returns the position of each token.
#[utoipa::path(post, path = "/tokenize", tag = "text-embeddings-inference", request_body = TokenizeRequest, responses((status = 200, description = "OK", body = Vec<Vec<Token>>), TeiRefused), security(("bearer" = []), ()))]
async fn tokenize(
    State(service): Shared,
    Checked(request): Checked<TokenizeRequest>,
) -> Result<Json<Vec<Vec<Token>>>, Error> {
    let TokenizeRequest { inputs, add_special_tokens, prompt_name, model } = request;
    let model = service.pick(model.as_deref(), Need::Anything)?;
    let texts = match inputs {
        Texts::One(text) => vec![text],
        Texts::Many(texts) => texts,
    };
    service.check_count(texts.len(), "inputs")?;
    let work = move || {
        let choice = prompt_choice(prompt_name, None, None)?;
        let prompt = model.engine().config().prompts.resolve(model.prompt(&choice)?)?;
        let with_special = add_special_tokens != Some(false);
        let tokens = |text: String| {
            let text = format!("{prompt}{text}");
            let pieces = model.engine().tokenizer().pieces(&text)?.into_iter();
            Ok(pieces.filter(|piece| with_special || !piece.special).map(|piece| Token::of(piece, &text)).collect())
        };
        texts.into_iter().map(tokens).collect::<Result<_, Error>>()
    };
    Ok(Json(tokio::task::spawn_blocking(work).await.map_err(|e| Error::Engine(e.to_string()))??))
}

impl Token {
    fn of(piece: gte_core::Piece, text: &str) -> Self {
        let gte_core::Piece { id, text: name, special, start, stop, .. } = piece;
        match text.get(start..stop) {
            Some(part) if !special => Self { id, text: part.to_owned(), special, start: Some(start), stop: Some(stop) },
            _ => Self { id, text: name, special, start: None, stop: None },
        }
    }
}

/// Decodes token ids to texts.
#[utoipa::path(post, path = "/decode", tag = "text-embeddings-inference", request_body = DecodeRequest, responses((status = 200, description = "OK", body = Vec<String>), TeiRefused), security(("bearer" = []), ()))]
async fn decode(State(service): Shared, Checked(request): Checked<DecodeRequest>) -> Result<Json<Vec<String>>, Error> {
    let many = match request.ids {
        Ids::One(ids) => vec![ids],
        Ids::Many(many) => many,
    };
    service.check_count(many.len(), "ids")?;
    let model = service.pick(request.model.as_deref(), Need::Anything)?;
    let skip = request.skip_special_tokens.unwrap_or(true);
    let text = |ids: Vec<u32>| {
        if ids.is_empty() {
            return Err(Error::Empty("ids".to_owned()));
        }
        model.check_ids(&ids, "ids")?;
        Ok(model.engine().tokenizer().decode(&ids, skip)?)
    };
    Ok(Json(many.into_iter().map(text).collect::<Result<_, Error>>()?))
}

/// Describes a model and the limits of the server. Default: the first model.
#[utoipa::path(get, path = "/info", tag = "text-embeddings-inference", params(("model" = Option<String>, Query, description = "The model's name or id, if the server has several models")), responses((status = 200, description = "OK", body = Info), (status = 401, description = "A valid API key is required", body = ErrorBody), (status = 404, description = "No such model", body = ErrorBody), (status = 422, description = "The query string is invalid", body = ErrorBody), (status = 503, description = "The model is still loading", body = ErrorBody)), security(("bearer" = []), ()))]
async fn info(State(service): Shared, query: Result<Query<InfoQuery>, QueryRejection>) -> Result<Json<Info>, Error> {
    let Query(query) = query?;
    let model = service.pick(query.model.as_deref(), Need::Anything)?;
    let (engine, config) = (model.engine(), &service.config);
    let (described, outputs, prompts) = (engine.config(), engine.outputs(), &engine.config().prompts);
    let labels = |model: &Model| model.reranker().map(|reranker| LabelInfo::new(&reranker.label_names()));
    Ok(Json(Info {
        model_id: model.id().to_owned(),
        model_sha: None,
        model_dtype: engine.precision().name(),
        served_model_name: model.name.clone(),
        model_type: match described.task.name() {
            "embedder" => ModelType::Embedding(PoolingInfo { pooling: described.pooling.name() }),
            "reranker" => ModelType::Reranker(labels(&model)?),
            _ => ModelType::Classifier(labels(&model)?),
        },
        max_input_length: engine.tokenizer().max_length(),
        max_batch_tokens: model.max_batch_tokens(),
        max_batch_requests: None,
        max_client_batch_size: model.promised_texts.get().copied().unwrap_or(1),
        max_concurrent_requests: config.queue_requests,
        tokenization_workers: config.queue_requests,
        auto_truncate: true,
        version: env!("CARGO_PKG_VERSION"),
        dimension: model.dimensions(),
        prompts: prompts.names().map(str::to_owned).collect(),
        default_prompt_name: prompts.default_name().map(str::to_owned),
        isa: engine.isa().name(),
        device: engine.device().to_string(),
        device_name: engine.device_state().map(|state| state.name),
        threads: engine.threads().count(),
        sparse: outputs.sparse,
        colbert: outputs.colbert,
        models: service.registry.names(),
        note: model.note,
    }))
}

/// Computes a weight for each token id of a text, with a model that has sparse vectors.
#[utoipa::path(post, path = "/embed_sparse", tag = "text-embeddings-inference", request_body = EmbedAllRequest, responses((status = 200, description = "OK", body = Vec<Vec<SparseValue>>), TeiRefused), security(("bearer" = []), ()))]
async fn embed_sparse(State(service): Shared, Checked(request): Checked<EmbedAllRequest>) -> Result<Response, Error> {
    let EmbedAllRequest { inputs, prompt_name, prompt, input_type, truncate, truncation_direction: side, model } =
        request;
    let model = service.pick(model.as_deref(), Need::Sparse)?;
    let reading = Reading { prompt: prompt_choice(prompt_name, prompt, input_type)?, truncate, side };
    let outputs = Outputs::NONE.with_sparse(true);
    let computed = service.embed(&model, inputs, reading, outputs, "inputs").await?;
    let value = |&(index, value): &(u32, f32)| SparseValue { index, value };
    let body: Vec<Vec<SparseValue>> =
        computed.made.iter().map(|made| made.sparse.iter().map(value).collect()).collect();
    Ok((computed.headers.clone(), Json(body)).into_response())
}

/// The same as `/livez`, at the path that clients of text-embeddings-inference use.
#[utoipa::path(get, path = "/health", tag = "operation", responses((status = 200, description = "OK", body = String, content_type = "text/plain"), (status = 503, description = "A forward pass failed or takes too long", body = ErrorBody)))]
async fn health(service: Shared) -> Result<&'static str, Error> {
    operation::live(service).await
}
