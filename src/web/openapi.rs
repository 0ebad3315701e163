//! Descriptions of endpoints for the OpenAPI document, from the types of responses and the tables of lists.

use axum::http::StatusCode;
use utoipa::openapi::path::{Operation, OperationBuilder, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    Components, ContentBuilder, HeaderBuilder, InfoBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Required,
};
use utoipa::{PartialSchema, ToSchema};

use super::guard::BODY_TYPES;
use super::list::{DEFAULT_LIMIT, MAX_LIMIT, Resource};
use super::model::Page;
use super::problem::{CONTENT_TYPE, Problem};
use crate::export::Format;

/// The description of one endpoint, and the schemas that it refers to.
pub(super) struct Documented {
    pub(super) operation: Operation,
    pub(super) schemas: Vec<(String, RefOr<Schema>)>,
}

/// Returns a document without endpoints.
pub(super) fn empty() -> OpenApi {
    let info = InfoBuilder::new()
        .title("Outcrop")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Known vulnerabilities in the running containers of a cluster. Every list and count covers only what the caller may read.",
        ))
        .build();
    OpenApiBuilder::new().info(info).build()
}

/// Completes a document that has its endpoints.
pub(super) fn finish(mut document: OpenApi) -> OpenApi {
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some(
            "A token that `outcrop token new --api` created, or a Kubernetes token for the audience `outcrop`. On loopback without a token file none is needed.",
        ))
        .build();
    let components = document.components.get_or_insert_with(Components::new);
    components.add_security_scheme("token", SecurityScheme::Http(bearer));
    document.security =
        Some(vec![SecurityRequirement::new("token", Vec::<String>::new()), SecurityRequirement::default()]);
    document
}

/// Describes a `GET` endpoint. Its response has an `ETag`, and the request may have `If-None-Match`.
pub(super) fn get<T: ToSchema>(summary: &str, parameters: Vec<Parameter>, errors: &[StatusCode]) -> Documented {
    let mut schemas = Schemas::default();
    let answer = schemas.refer::<T>(&T::name());
    schemas.question(answer, summary, parameters, errors)
}

/// Describes the list of a resource. `more` are parameters besides a list's own.
pub(super) fn list<T: ToSchema>(resource: &Resource, more: Vec<Parameter>) -> Documented
where
    Page<T>: ToSchema,
{
    let mut schemas = Schemas::default();
    // The name of a generic type does not contain its parameter.
    schemas.refer::<T>(&T::name());
    let answer = schemas.refer::<Page<T>>(&format!("{}Page", T::name()));
    schemas.question(answer, resource.about, list_parameters(resource, more), &[])
}

/// Describes the list of a resource whose pages have a type of their own, `P`.
pub(super) fn list_of<P: ToSchema>(resource: &Resource, more: Vec<Parameter>) -> Documented {
    let mut schemas = Schemas::default();
    let answer = schemas.refer::<P>(&P::name());
    schemas.question(answer, resource.about, list_parameters(resource, more), &[])
}

/// Returns the parameters of a list, after `more`.
fn list_parameters(resource: &Resource, more: Vec<Parameter>) -> Vec<Parameter> {
    let mut parameters = more;
    for (name, about) in resource.filters {
        parameters.push(parameter(name, ParameterIn::Query, false, about, text()));
    }
    if !resource.sorts.is_empty() {
        let words = resource.sorts.iter().flat_map(|sort| [(*sort).to_owned(), format!("-{sort}")]);
        let schema = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)).build();
        let about = "field to sort by; with a leading `-` in descending order";
        parameters.push(parameter("sort", ParameterIn::Query, false, about, schema));
    }
    let limit = ObjectBuilder::new()
        .schema_type(Type::Integer)
        .minimum(Some(1))
        .maximum(Some(u64::try_from(MAX_LIMIT).unwrap_or(u64::MAX)))
        .default(Some(DEFAULT_LIMIT.into()))
        .build();
    parameters.push(parameter("limit", ParameterIn::Query, false, "maximum number of items in the page", limit));
    let about = "the value of the field `continue` of the previous page, requested by the same caller with the same filters and sort";
    parameters.push(parameter("continue", ParameterIn::Query, false, about, text()));
    parameters
}

/// Describes a document for other tools, with its filters and formats.
pub(super) fn download(summary: &str, resource: &Resource, formats: &[Format]) -> Documented {
    let mut parameters: Vec<Parameter> = Vec::new();
    for (name, about) in resource.filters {
        parameters.push(parameter(name, ParameterIn::Query, false, about, text()));
    }
    let words = formats.iter().map(|format| format.as_str());
    let schema = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)).build();
    parameters.push(parameter("format", ParameterIn::Query, false, "format; the first one if it is missing", schema));
    let mut schemas = Schemas::default();
    let problem = schemas.refer::<Problem>("Problem");
    let mut operation = schemas.operation(problem, summary, &[StatusCode::TOO_MANY_REQUESTS]);
    operation = operation.parameters(Some(parameters));
    let mut document = ResponseBuilder::new().description("The document, which is streamed");
    for format in formats {
        let kind = if format.is_json() { Type::Object } else { Type::String };
        let schema: RefOr<Schema> = RefOr::T(ObjectBuilder::new().schema_type(kind).build().into());
        document = document.content(format.media_type(), ContentBuilder::new().schema(Some(schema)).build());
    }
    let mut operation = operation.build();
    operation.responses.responses.insert("200".to_owned(), document.build().into());
    Documented { operation, schemas: schemas.0 }
}

/// Describes a `POST` endpoint.
pub(super) fn post<T: ToSchema>(
    summary: &str,
    parameters: Vec<Parameter>,
    body: RequestBody,
    errors: &[StatusCode],
) -> Documented {
    let mut schemas = Schemas::default();
    let answer = schemas.refer::<T>(&T::name());
    let operation = schemas.operation(answer, summary, errors).parameters(Some(parameters)).request_body(Some(body));
    Documented { operation: operation.build(), schemas: schemas.0 }
}

/// Schemas that are collected while an endpoint is described.
#[derive(Default)]
struct Schemas(Vec<(String, RefOr<Schema>)>);

impl Schemas {
    /// Returns a reference to the schema of a type, which becomes a component of this name.
    fn refer<T: ToSchema>(&mut self, name: &str) -> Ref {
        T::schemas(&mut self.0);
        self.0.push((name.to_owned(), T::schema()));
        Ref::from_schema_name(name)
    }

    /// Begins the description of an operation: its answer, and the errors that it may have.
    fn operation(&mut self, answer: Ref, summary: &str, errors: &[StatusCode]) -> OperationBuilder {
        let answer = ContentBuilder::new().schema(Some(answer)).build();
        let answer = ResponseBuilder::new().description("The answer").content("application/json", answer);
        let mut operation = OperationBuilder::new().summary(Some(summary)).response("200", answer);
        let problem = self.refer::<Problem>("Problem");
        let common = [
            StatusCode::BAD_REQUEST,
            StatusCode::UNAUTHORIZED,
            StatusCode::FORBIDDEN,
            StatusCode::MISDIRECTED_REQUEST,
            StatusCode::INTERNAL_SERVER_ERROR,
            StatusCode::SERVICE_UNAVAILABLE,
        ];
        for status in common.iter().chain(errors) {
            let content = ContentBuilder::new().schema(Some(problem.clone())).build();
            let response = ResponseBuilder::new()
                .description(status.canonical_reason().unwrap_or("Error"))
                .content(CONTENT_TYPE, content);
            operation = operation.response(status.as_str(), response);
        }
        operation
    }

    fn question(mut self, answer: Ref, summary: &str, parameters: Vec<Parameter>, errors: &[StatusCode]) -> Documented {
        let known = "ETag of a response that the caller already has";
        let known = parameter("If-None-Match", ParameterIn::Header, false, known, text());
        let parameters = parameters.into_iter().chain([known]);
        let errors = [errors, &[StatusCode::TOO_MANY_REQUESTS]].concat();
        let mut operation = self.operation(answer, summary, &errors).parameters(Some(parameters)).build();
        let etag = || {
            HeaderBuilder::new()
                .schema(Some(RefOr::T(text())))
                .description(Some("digest of the response and of the caller's scope"))
        };
        if let Some(RefOr::T(answer)) = operation.responses.responses.get_mut("200") {
            answer.headers.insert("ETag".to_owned(), etag().build().into());
        }
        let unchanged = ResponseBuilder::new().description("Not Modified").header("ETag", etag().build());
        operation.responses.responses.insert("304".to_owned(), unchanged.build().into());
        Documented { operation, schemas: self.0 }
    }
}

fn text() -> Schema {
    ObjectBuilder::new().schema_type(Type::String).build().into()
}

fn parameter(name: &str, place: ParameterIn, required: bool, about: &str, schema: impl Into<Schema>) -> Parameter {
    let required = if required { Required::True } else { Required::False };
    let schema: RefOr<Schema> = RefOr::T(schema.into());
    ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .required(required)
        .description(Some(about))
        .schema(Some(schema))
        .build()
}

/// Describes a segment of the path.
pub(super) fn segment(name: &str, about: &str) -> Parameter {
    parameter(name, ParameterIn::Path, true, about, text())
}

/// Describes a required parameter of the query.
pub(super) fn required(name: &str, about: &str) -> Parameter {
    parameter(name, ParameterIn::Query, true, about, text())
}

/// Describes an optional parameter of the query that is `true` or `false`.
pub(super) fn flag(name: &str, about: &str) -> Parameter {
    let schema = ObjectBuilder::new().schema_type(Type::Boolean).default(Some(false.into())).build();
    parameter(name, ParameterIn::Query, false, about, schema)
}

/// Describes an optional header.
pub(super) fn header(name: &str, about: &str) -> Parameter {
    parameter(name, ParameterIn::Header, false, about, text())
}

/// Describes a body that is a file.
pub(super) fn file(about: &str) -> RequestBody {
    let binary = ObjectBuilder::new()
        .schema_type(Type::String)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary)))
        .build();
    let mut file = RequestBodyBuilder::new().description(Some(about)).required(Some(Required::True));
    for kind in BODY_TYPES {
        let schema: RefOr<Schema> = RefOr::T(binary.clone().into());
        file = file.content(kind, ContentBuilder::new().schema(Some(schema)).build());
    }
    file.build()
}

/// Describes an empty body, which has a type nevertheless.
pub(super) fn no_body() -> RequestBody {
    let about = "Empty. The content type is required, because no web page of another origin can send it.";
    let body = RequestBodyBuilder::new().description(Some(about));
    body.content("application/json", ContentBuilder::new().build()).build()
}

/// The document itself, as an answer.
pub(super) struct AnyDocument;

impl PartialSchema for AnyDocument {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new().description(Some("an OpenAPI document")).build().into()
    }
}

impl ToSchema for AnyDocument {
    fn name() -> std::borrow::Cow<'static, str> {
        "OpenApi".into()
    }
}
