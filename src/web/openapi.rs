//! The OpenAPI document, from the answers' types and the lists' tables.

use std::sync::LazyLock;

use axum::http::StatusCode;
use utoipa::openapi::path::{HttpMethod, Operation, OperationBuilder, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, ContentBuilder, HeaderBuilder, InfoBuilder, OpenApi, OpenApiBuilder, PathItem, Paths, Ref,
    RefOr, Required,
};
use utoipa::{PartialSchema, ToSchema};

use super::api::SIGNATURE;
use super::guard::BODY_TYPES;
use super::list::{self, DEFAULT_LIMIT, MAX_LIMIT, Resource};
use super::model::{
    AdvisoryItem, ContainerItem, FindingItem, HasItem, ImageItem, IssueItem, LayerItem, NodeItem, PackageItem, Page,
    Pushed, Requeued, Status, WorkloadDetail, WorkloadItem,
};
use super::problem::{CONTENT_TYPE, Problem};

/// The document. It is the same for everybody.
pub(super) fn document() -> &'static OpenApi {
    static DOCUMENT: LazyLock<OpenApi> = LazyLock::new(make);
    &DOCUMENT
}

/// Components that are collected while paths are described.
#[derive(Default)]
struct Document {
    paths: Paths,
    schemas: Vec<(String, RefOr<Schema>)>,
}

impl Document {
    /// A reference to a type's schema, which becomes a component of this name.
    fn refer<T: ToSchema>(&mut self, name: &str) -> Ref {
        T::schemas(&mut self.schemas);
        self.schemas.push((name.to_owned(), T::schema()));
        Ref::from_schema_name(name)
    }

    /// The same, of the type's own name.
    fn named<T: ToSchema>(&mut self) -> Ref {
        self.refer::<T>(&T::name())
    }

    /// What may come of a question, besides its answer.
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

    /// A question: `GET`, with a tag by which it is not answered twice.
    fn get(&mut self, path: &str, answer: Ref, summary: &str, parameters: Vec<Parameter>, errors: &[StatusCode]) {
        let tag = "If-None-Match";
        let known = parameter(tag, ParameterIn::Header, false, "the ETag of the answer that the caller has", text());
        let mut operation =
            self.operation(answer, summary, errors).parameters(Some(parameters.into_iter().chain([known]))).build();
        let etag = || {
            HeaderBuilder::new()
                .schema(Some(RefOr::T(text())))
                .description(Some("of the answer's bytes and the caller's scope"))
        };
        if let Some(RefOr::T(answer)) = operation.responses.responses.get_mut("200") {
            answer.headers.insert("ETag".to_owned(), etag().build().into());
        }
        let unchanged = ResponseBuilder::new().description("The caller has it").header("ETag", etag().build());
        operation.responses.responses.insert("304".to_owned(), unchanged.build().into());
        self.add(path, HttpMethod::Get, operation);
    }

    fn add(&mut self, path: &str, method: HttpMethod, operation: Operation) {
        self.paths.paths.insert(path.to_owned(), PathItem::new(method, operation));
    }

    fn list<T: ToSchema>(&mut self, resource: &Resource, more: Vec<Parameter>)
    where
        Page<T>: ToSchema,
    {
        let mut parameters = more;
        for (name, about) in resource.filters {
            parameters.push(parameter(name, ParameterIn::Query, false, about, text()));
        }
        if !resource.sorts.is_empty() {
            let words = resource.sorts.iter().flat_map(|sort| [(*sort).to_owned(), format!("-{sort}")]);
            let schema = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)).build();
            let about = "the field to sort by; with - before it from the greatest to the least";
            parameters.push(parameter("sort", ParameterIn::Query, false, about, schema));
        }
        let limit = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .minimum(Some(1))
            .maximum(Some(u64::try_from(MAX_LIMIT).unwrap_or(u64::MAX)))
            .default(Some(DEFAULT_LIMIT.into()))
            .build();
        parameters.push(parameter("limit", ParameterIn::Query, false, "most items of the page", limit));
        let about = "where to go on: the field `continue` of the page before, with the same sort";
        parameters.push(parameter("continue", ParameterIn::Query, false, about, text()));
        // A generic type's name does not tell of what it is one.
        self.named::<T>();
        let answer = self.refer::<Page<T>>(&format!("{}Page", T::name()));
        self.get(&format!("/api/v1/{}", resource.name), answer, resource.about, parameters, &[]);
    }

    /// Something that is done: `POST`.
    fn post(
        &mut self,
        path: &str,
        answer: Ref,
        summary: &str,
        parameters: Vec<Parameter>,
        body: RequestBodyBuilder,
        errors: &[StatusCode],
    ) {
        let operation =
            self.operation(answer, summary, errors).parameters(Some(parameters)).request_body(Some(body.build()));
        self.add(path, HttpMethod::Post, operation.build());
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

/// The document itself, as an answer.
struct AnyObject;

impl PartialSchema for AnyObject {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new().description(Some("an OpenAPI document")).build().into()
    }
}

impl ToSchema for AnyObject {
    fn name() -> std::borrow::Cow<'static, str> {
        "OpenApi".into()
    }
}

fn make() -> OpenApi {
    let mut document = Document::default();
    let answer = document.named::<AnyObject>();
    document.get("/api/v1/openapi.json", answer, "This document", Vec::new(), &[]);
    let answer = document.named::<Status>();
    document.get("/api/v1/status", answer, "The state of everything that the caller may see", Vec::new(), &[]);
    document.list::<WorkloadItem>(&list::WORKLOADS, Vec::new());
    let named = [
        ("namespace", "its namespace"),
        ("kind", "its kind, as kubectl takes it: `deploy`, `deployment.apps`"),
        ("name", "its name"),
    ];
    let named = named.map(|(name, about)| parameter(name, ParameterIn::Path, true, about, text())).to_vec();
    let answer = document.named::<WorkloadDetail>();
    let path = "/api/v1/workloads/{namespace}/{kind}/{name}";
    document.get(path, answer, "A workload in full", named, &[StatusCode::NOT_FOUND]);
    document.list::<IssueItem>(&list::ISSUES, Vec::new());
    document.list::<NodeItem>(&list::NODES, Vec::new());
    document.list::<ContainerItem>(&list::CONTAINERS, Vec::new());
    document.list::<ImageItem>(&list::IMAGES, Vec::new());
    document.list::<LayerItem>(&list::LAYERS, Vec::new());
    document.list::<PackageItem>(&list::PACKAGES, Vec::new());
    document.list::<FindingItem>(&list::FINDINGS, Vec::new());
    let about = "a package (log4j-core), a package URL (pkg:npm/lodash@<4.17.21) or a problem (CVE-2021-44228)";
    document.list::<HasItem>(&list::WHO_HAS, vec![parameter("q", ParameterIn::Query, true, about, text())]);
    let id = parameter("id", ParameterIn::Path, true, "any of its names: CVE-2021-44228", text());
    let answer = document.named::<AdvisoryItem>();
    document.get("/api/v1/advisories/{id}", answer, "What a problem touches", vec![id], &[StatusCode::NOT_FOUND]);
    let binary = ObjectBuilder::new()
        .schema_type(Type::String)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary)))
        .build();
    let mut file = RequestBodyBuilder::new()
        .description(Some("The file that outcrop db build made"))
        .required(Some(Required::True));
    for kind in BODY_TYPES {
        let schema: RefOr<Schema> = RefOr::T(binary.clone().into());
        file = file.content(kind, ContentBuilder::new().schema(Some(schema)).build());
    }
    let shrink = ObjectBuilder::new().schema_type(Type::Boolean).default(Some(false.into())).build();
    let shrink =
        parameter("allow-shrink", ParameterIn::Query, false, "take it though a source has fewer records", shrink);
    let about = "what the file's .minisig holds, in base64";
    let signature = parameter(SIGNATURE, ParameterIn::Header, false, about, text());
    let answer = document.named::<Pushed>();
    document.post(
        "/api/v1/database",
        answer,
        "Put an advisory database in the place of the one in use; needs the right push-database",
        vec![shrink, signature],
        file,
        &[
            StatusCode::REQUEST_TIMEOUT,
            StatusCode::CONFLICT,
            StatusCode::PAYLOAD_TOO_LARGE,
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            StatusCode::INSUFFICIENT_STORAGE,
        ],
    );
    for (act, summary) in [
        ("distrust", "Discard what a node read and have it read again by others; needs the right manage-nodes"),
        ("trust", "Believe a node again; needs the right manage-nodes"),
    ] {
        let name = parameter("name", ParameterIn::Path, true, "the node", text());
        let body =
            RequestBodyBuilder::new().description(Some("Nothing; the type is needed, so that no page can send it"));
        let body = body.content("application/json", ContentBuilder::new().build());
        let errors = [StatusCode::NOT_FOUND, StatusCode::CONFLICT, StatusCode::UNSUPPORTED_MEDIA_TYPE];
        let answer = document.named::<Requeued>();
        document.post(&format!("/api/v1/nodes/{{name}}/{act}"), answer, summary, vec![name], body, &errors);
    }
    let Document { paths, schemas } = document;
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some(
            "A token as outcrop token new --api makes it; none is needed on loopback without a file of tokens",
        ))
        .build();
    let components = ComponentsBuilder::new()
        .schemas_from_iter(schemas)
        .security_scheme("token", SecurityScheme::Http(bearer))
        .build();
    let info = InfoBuilder::new()
        .title("Outcrop")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Which known vulnerabilities run in a cluster. Everything is computed over what the caller may see.",
        ))
        .build();
    OpenApiBuilder::new()
        .info(info)
        .paths(paths)
        .components(Some(components))
        .security(Some([SecurityRequirement::new("token", Vec::<String>::new()), SecurityRequirement::default()]))
        .build()
}
