//! Migrations are embedded when the library is compiled: a new file among them has to compile it anew. The program gets a
//! few lines of C.

fn main() {
    println!("cargo::rerun-if-changed=migrations");
    if std::env::var_os("CARGO_FEATURE_CLI").is_some() {
        println!("cargo::rerun-if-changed=src/cli/stdout.c");
        for object in cc::Build::new().file("src/cli/stdout.c").compile_intermediates() {
            println!("cargo::rustc-link-arg-bins={}", object.display());
        }
    }
}
