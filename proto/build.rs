//! Compiles the interface between agents and the aggregator.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    #[cfg(feature = "grpc")]
    {
        let files = protox::compile(["outcrop/v1/collector.proto"], ["."])?;
        tonic_prost_build::configure().codec_path("crate::frugal::FrugalCodec").compile_fds(files)?;
    }
    println!("cargo::rerun-if-changed=outcrop");
    Ok(())
}
