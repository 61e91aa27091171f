//! How a library that Node loads is linked.

fn main() {
    napi_build::setup();
}
