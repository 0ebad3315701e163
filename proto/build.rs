//! Compiles the interface between agents and the aggregator, and the table of its messages that `shape.rs` bounds them by.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    #[cfg(feature = "grpc")]
    {
        let files = protox::compile(["outcrop/v1/collector.proto"], ["."])?;
        let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
        std::fs::write(out.join("shapes.rs"), shapes(&files))?;
        tonic_prost_build::configure().codec_path("crate::frugal::FrugalCodec").compile_fds(files)?;
    }
    println!("cargo::rerun-if-changed=outcrop");
    Ok(())
}

/// Writes a `Shape` for each message: the size of its struct, and its fields that have a length.
#[cfg(feature = "grpc")]
fn shapes(files: &tonic_prost_build::FileDescriptorSet) -> String {
    use std::fmt::Write as _;
    let constant = |name: &str| name.rsplit('.').next().unwrap_or_default().to_uppercase();
    let mut code = String::new();
    for message in files.file.iter().flat_map(|file| &file.message_type) {
        let name = message.name();
        let _ = writeln!(code, "static {}: Shape = Shape {{ size: size_of::<v1::{name}>(), fields: &[", constant(name));
        for field in &message.field {
            let kind = match field.r#type().as_str_name() {
                "TYPE_MESSAGE" => format!("Kind::Message(&{})", constant(field.type_name())),
                "TYPE_STRING" | "TYPE_BYTES" => "Kind::Bytes".to_owned(),
                _ => continue,
            };
            let repeated = field.label().as_str_name() == "LABEL_REPEATED";
            let _ = writeln!(code, "    Field {{ number: {}, repeated: {repeated}, kind: {kind} }},", field.number());
        }
        let _ = writeln!(
            code,
            "] }};\nimpl Shaped for v1::{name} {{ const SHAPE: &'static Shape = &{}; }}",
            constant(name)
        );
    }
    code
}
