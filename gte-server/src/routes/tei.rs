//! text-embeddings-inference's API, and by its names SageMaker's.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use gte_core::Prompt;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Shared, native, operation};
use crate::api::tei::*;
use crate::api::{EncodingFormat, TeiRefused, Texts};
use crate::body::{Checked, RawBody};
use crate::error::Error;
use crate::json;
use crate::service::{Reading, Service};

/// Those that need a key where there are keys.
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
        .routes(routes!(rerank))
        .routes(routes!(predict))
        // SageMaker's name for it.
        .route("/invocations", post(any))
}

/// Those of probes.
pub(super) fn open_routes() -> OpenApiRouter<Arc<Service>> {
    // SageMaker's name for it.
    OpenApiRouter::new().routes(routes!(health)).route("/ping", get(health))
}

/// For clients that have a bare address: as `/similarity` where `inputs` is an object, else as
/// `/embed`.
#[utoipa::path(post, path = "/", tag = "text-embeddings-inference", request_body = AnyRequest, responses((status = 200, description = "OK", body = AnyResponse), TeiRefused), security(("bearer" = []), ()))]
async fn any(service: Shared, RawBody(body): RawBody) -> Result<Response, Error> {
    match json::parse_any::<json::Object<Kind>>(&body) {
        Ok(json::Object(Kind { inputs: Shape::Object })) => similarity(service, Checked(json::parse(&body)?)).await,
        _ => embed(service, Checked(json::parse(&body)?)).await,
    }
}

/// The vectors of texts.
#[utoipa::path(post, path = "/embed", tag = "text-embeddings-inference", request_body = EmbedRequest, responses((status = 200, description = "OK", body = Vec<Vec<f32>>), TeiRefused), security(("bearer" = []), ()))]
async fn embed(State(service): Shared, Checked(request): Checked<EmbedRequest>) -> Result<Response, Error> {
    if request.encoding_format == Some(EncodingFormat::Base64) {
        return Err(Error::field("encoding_format", "vectors are lists of numbers here; base64 is on /v1/embeddings"));
    }
    let EmbedRequest { inputs, prompt_name, truncate, truncation_direction: side, .. } = request;
    let embedded = service.embed(inputs, Reading { prompt_name, truncate, side }, "inputs").await?;
    let headers = embedded.headers.clone();
    if request.normalize == Some(false) {
        return Ok((headers, Json(embedded.raw(&service, request.dimensions)?)).into_response());
    }
    let vectors = embedded.vectors(&service, request.dimensions)?;
    Ok((headers, Json(vectors.rows().collect::<Vec<_>>())).into_response())
}

/// The vector of each token, before pooling.
#[utoipa::path(post, path = "/embed_all", tag = "text-embeddings-inference", request_body = EmbedAllRequest, responses((status = 200, description = "OK", body = Vec<Vec<Vec<f32>>>), TeiRefused), security(("bearer" = []), ()))]
async fn embed_all(State(service): Shared, Checked(request): Checked<EmbedAllRequest>) -> Result<Response, Error> {
    let EmbedAllRequest { inputs, prompt_name, truncate, truncation_direction: side } = request;
    let read = service.read(inputs, Reading { prompt_name, truncate, side }, "inputs").await?;
    Ok(Json(service.batcher.hidden_states(read.tokens).await?).into_response())
}

/// The cosine of each sentence with the source.
#[utoipa::path(post, path = "/similarity", tag = "text-embeddings-inference", request_body = SimilarityRequest, responses((status = 200, description = "OK", body = Vec<f32>), TeiRefused), security(("bearer" = []), ()))]
async fn similarity(State(service): Shared, Checked(request): Checked<SimilarityRequest>) -> Result<Response, Error> {
    let SimilarityInputs { source_sentence, sentences } = request.inputs;
    let SimilarityParameters { prompt_name, truncate, truncation_direction: side } =
        request.parameters.unwrap_or_default();
    let reading = Reading { prompt_name, truncate, side };
    let (scores, headers) = native::compare(&service, source_sentence, sentences, reading, "inputs.sentences").await?;
    Ok((headers, Json(scores)).into_response())
}

/// The tokens of texts, uncut, with their places.
#[utoipa::path(post, path = "/tokenize", tag = "text-embeddings-inference", request_body = TokenizeRequest, responses((status = 200, description = "OK", body = Vec<Vec<Token>>), TeiRefused), security(("bearer" = []), ()))]
async fn tokenize(
    State(service): Shared,
    Checked(request): Checked<TokenizeRequest>,
) -> Result<Json<Vec<Vec<Token>>>, Error> {
    let TokenizeRequest { inputs, add_special_tokens, prompt_name } = request;
    let texts = match inputs {
        Texts::One(text) => vec![text],
        Texts::Many(texts) => texts,
    };
    service.check_count(texts.len(), "inputs")?;
    let work = move || {
        let prompts = service.embedder.prompts();
        let name = match service.prompt(prompt_name.as_deref())? {
            Prompt::Named(name) => Some(name),
            _ => prompts.default_name(),
        };
        let prompt = name.and_then(|name| prompts.get(name)).unwrap_or_default();
        let with_special = add_special_tokens != Some(false);
        let tokens = |text: String| {
            let text = format!("{prompt}{text}");
            let pieces = service.embedder.tokenizer().pieces(&text)?.into_iter();
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

/// The texts of token ids.
#[utoipa::path(post, path = "/decode", tag = "text-embeddings-inference", request_body = DecodeRequest, responses((status = 200, description = "OK", body = Vec<String>), TeiRefused), security(("bearer" = []), ()))]
async fn decode(State(service): Shared, Checked(request): Checked<DecodeRequest>) -> Result<Json<Vec<String>>, Error> {
    let many = match request.ids {
        Ids::One(ids) => vec![ids],
        Ids::Many(many) => many,
    };
    service.check_count(many.len(), "ids")?;
    let skip = request.skip_special_tokens.unwrap_or(true);
    let text = |ids: Vec<u32>| {
        if ids.is_empty() {
            return Err(Error::Empty("ids".to_owned()));
        }
        service.check_ids(&ids, "ids")?;
        Ok(service.embedder.tokenizer().decode(&ids, skip)?)
    };
    Ok(Json(many.into_iter().map(text).collect::<Result<_, Error>>()?))
}

/// The model and the limits.
#[utoipa::path(get, path = "/info", tag = "text-embeddings-inference", responses((status = 200, description = "OK", body = Info), (status = 401, description = "A valid key is needed", body = ErrorBody)), security(("bearer" = []), ()))]
async fn info(State(service): Shared) -> Json<Info> {
    let (embedder, config) = (&service.embedder, &service.config);
    Json(Info {
        model_id: embedder.name().to_owned(),
        model_sha: None,
        model_dtype: embedder.precision().name(),
        served_model_name: embedder.name().to_owned(),
        model_type: ModelType { embedding: PoolingInfo { pooling: embedder.config().pooling.name() } },
        max_input_length: embedder.max_length(),
        max_batch_tokens: embedder.budget().tokens(),
        max_batch_requests: None,
        max_client_batch_size: service.promised_texts,
        max_concurrent_requests: config.queue_requests,
        tokenization_workers: config.queue_requests,
        auto_truncate: true,
        version: env!("CARGO_PKG_VERSION"),
        dimension: embedder.dim(),
        prompts: embedder.prompts().names().map(str::to_owned).collect(),
        default_prompt_name: embedder.prompts().default_name().map(str::to_owned),
        isa: embedder.isa().name(),
        threads: embedder.threads(),
        note: config.note(),
    })
}

/// Not computed: this model makes dense vectors.
#[utoipa::path(post, path = "/embed_sparse", tag = "text-embeddings-inference", responses((status = 424, description = "The model makes dense vectors", body = ErrorBody), (status = 401, description = "A valid key is needed", body = ErrorBody)), security(("bearer" = []), ()))]
async fn embed_sparse() -> Error {
    Error::Task("make sparse vectors")
}

/// Not computed: this model makes dense vectors.
#[utoipa::path(post, path = "/rerank", tag = "text-embeddings-inference", responses((status = 424, description = "The model makes dense vectors", body = ErrorBody), (status = 401, description = "A valid key is needed", body = ErrorBody)), security(("bearer" = []), ()))]
async fn rerank() -> Error {
    Error::Task("rerank")
}

/// Not computed: this model makes dense vectors.
#[utoipa::path(post, path = "/predict", tag = "text-embeddings-inference", responses((status = 424, description = "The model makes dense vectors", body = ErrorBody), (status = 401, description = "A valid key is needed", body = ErrorBody)), security(("bearer" = []), ()))]
async fn predict() -> Error {
    Error::Task("classify")
}

/// As `/livez`, where text-embeddings-inference's clients look.
#[utoipa::path(get, path = "/health", tag = "operation", responses((status = 200, description = "OK", body = String, content_type = "text/plain"), (status = 503, description = "Not ready", body = ErrorBody)))]
async fn health(service: Shared) -> Result<&'static str, Error> {
    operation::live(service).await
}
