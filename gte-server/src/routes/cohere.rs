//! Cohere's embeddings, for both versions of its API. Cohere's reranking is in `rerank.rs`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use gte_core::{Embeddings, Outputs, TruncationSide};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::rerank::new_id;
use crate::api::cohere::*;
use crate::api::rerank::Meta;
use crate::api::vectors::{OutputType, typed, written};
use crate::api::{EncodingFormat, Refused, prompt_choice};
use crate::body::Checked;
use crate::error::Error;
use crate::reading::{PromptChoice, Reading};
use crate::registry::{Model, Need};
use crate::service::Service;

pub(super) fn routes() -> OpenApiRouter<Arc<Service>> {
    OpenApiRouter::new().routes(routes!(embed)).routes(routes!(embed_v1))
}

/// Embeds texts and returns the vectors by format, as in Cohere's API.
#[utoipa::path(post, path = "/v2/embed", operation_id = "cohere_embed", tag = "Cohere", request_body = EmbedRequest, responses((status = 200, description = "OK", body = EmbedResponse), Refused), security(("bearer" = []), ()))]
async fn embed(State(service): Shared, Checked(request): Checked<EmbedRequest>) -> Result<Response, Error> {
    let (headers, body) = embedded(&service, request).await?;
    Ok((headers, Json(body)).into_response())
}

/// The same as `/v2/embed`, but if no formats are requested, the vectors are a list, as in version
/// 1 of Cohere's API.
#[utoipa::path(post, path = "/v1/embed", operation_id = "cohere_embed_v1", tag = "Cohere", request_body = EmbedRequest, responses((status = 200, description = "OK", body = AnyEmbedResponse), Refused), security(("bearer" = []), ()))]
async fn embed_v1(State(service): Shared, Checked(request): Checked<EmbedRequest>) -> Result<Response, Error> {
    let typed = request.embedding_types.is_some();
    let (headers, body) = embedded(&service, request).await?;
    if typed {
        return Ok((headers, Json(body)).into_response());
    }
    let EmbedResponse { id, embeddings, texts, meta, .. } = body;
    let embeddings = embeddings.float.unwrap_or_default();
    let body = EmbedFloatsResponse { id, response_type: "embeddings_floats", embeddings, texts, meta };
    Ok((headers, Json(body)).into_response())
}

async fn embedded(service: &Arc<Service>, request: EmbedRequest) -> Result<(HeaderMap, EmbedResponse), Error> {
    let model = service.pick(request.model.as_deref(), Need::Vectors)?;
    if request.images.as_ref().is_some_and(|images| !images.is_empty()) {
        return Err(Error::field("images", "the models of this server read text, not images"));
    }
    let reading = reading(&model, &request)?;
    let types = request.embedding_types.unwrap_or_else(|| vec!["float".to_owned()]);
    if types.is_empty() {
        return Err(Error::field("embedding_types", "it is empty, expected at least one format, such as float"));
    }
    let (texts, field) = texts(request.texts, request.inputs)?;
    let computed = service.embed(&model, texts.clone().into(), reading, Outputs::DENSE, field).await?;
    let vectors = computed.vectors(&model, request.output_dimension).map_err(|e| match e {
        Error::Field { reason, .. } => Error::field("output_dimension", reason),
        e => e,
    })?;
    let mut embeddings = ByType::default();
    for name in &types {
        write(&mut embeddings, name, &vectors)?;
    }
    let billed_units = BilledUnits { input_tokens: computed.tokens };
    let meta = EmbedMeta { meta: Meta::new(computed.truncated), billed_units };
    let body = EmbedResponse { id: new_id("embed"), response_type: "embeddings_by_type", embeddings, texts, meta };
    Ok((computed.headers, body))
}

fn reading(model: &Model, request: &EmbedRequest) -> Result<Reading, Error> {
    let max = model.engine().tokenizer().max_length();
    if let Some(tokens) = request.max_tokens.filter(|&tokens| tokens < max) {
        let reason = format_args!("{tokens}: texts can only be truncated at {max} tokens, the model's limit");
        return Err(Error::field("max_tokens", reason));
    }
    let mut prompt = prompt_choice(None, None, request.input_type.clone())?;
    if let PromptChoice::NameOrKind(name) = &prompt
        && ["classification", "clustering"].contains(&name.as_str())
        && model.engine().config().prompts.get(name).is_none()
    {
        // Cohere's clients must send the kind of text. For most models it makes no difference.
        prompt = PromptChoice::Default;
    }
    let (truncate, side) = match request.truncate.as_deref().map(str::to_ascii_uppercase).as_deref() {
        None | Some("END") => (None, Some(TruncationSide::Right)),
        Some("START") => (None, Some(TruncationSide::Left)),
        Some("NONE") => (Some(false), None),
        Some(other) => {
            return Err(Error::field("truncate", format_args!("{other:?}, expected END, START or NONE")));
        }
    };
    Ok(Reading { prompt, truncate, side })
}

/// The texts of a request, and the name of the field that contains them.
fn texts(texts: Option<Vec<String>>, inputs: Option<Vec<EmbedInput>>) -> Result<(Vec<String>, &'static str), Error> {
    match (texts, inputs) {
        (Some(texts), None) => Ok((texts, "texts")),
        (None, Some(inputs)) => Ok((inputs.into_iter().map(text).collect::<Result<_, _>>()?, "inputs")),
        (None, None) => Err(Error::field("texts", "the field is missing")),
        (Some(_), Some(_)) => Err(Error::field("inputs", "both `inputs` and `texts` are given: send only one of them")),
    }
}

fn text(input: EmbedInput) -> Result<String, Error> {
    let part = |part: EmbedPart| match part {
        EmbedPart { kind, text: Some(text) } if kind == "text" => Ok(text),
        EmbedPart { kind, .. } => Err(Error::field(
            "inputs",
            format_args!("content of type {kind:?}: the models of this server read only text"),
        )),
    };
    input.content.into_iter().map(part).collect()
}

fn write(embeddings: &mut ByType, name: &str, vectors: &Embeddings) -> Result<(), Error> {
    match name.to_ascii_lowercase().as_str() {
        "float" => embeddings.float = Some(typed(vectors, OutputType::Float)),
        "int8" => embeddings.int8 = Some(typed(vectors, OutputType::Int8)),
        "uint8" => embeddings.uint8 = Some(typed(vectors, OutputType::Uint8)),
        "binary" => embeddings.binary = Some(typed(vectors, OutputType::Binary)),
        "ubinary" => embeddings.ubinary = Some(typed(vectors, OutputType::Ubinary)),
        "base64" => embeddings.base64 = Some(written(vectors, OutputType::Float, EncodingFormat::Base64)),
        _ => {
            let reason = format_args!("{name:?}, expected float, int8, uint8, binary, ubinary or base64");
            return Err(Error::field("embedding_types", reason));
        }
    }
    Ok(())
}
