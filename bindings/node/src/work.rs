//! Work on libuv's threads, with a promise for its result.

use std::panic::{AssertUnwindSafe, catch_unwind};

use agentmux_state::Result;
use napi::bindgen_prelude::{ToNapiValue, TypeName};
use napi::{Env, Task};

use crate::error::to_js;

/// Something to be done once.
pub struct Work<T> {
    run: Option<Box<dyn FnOnce() -> Result<T> + Send>>,
}

impl<T> Work<T> {
    /// Takes what is to be done.
    pub fn new(run: impl FnOnce() -> Result<T> + Send + 'static) -> Self {
        Self { run: Some(Box::new(run)) }
    }
}

impl<T: ToNapiValue + TypeName + Send + 'static> Task for Work<T> {
    type Output = T;
    type JsValue = T;

    fn compute(&mut self) -> napi::Result<T> {
        let run = self.run.take().ok_or_else(|| napi::Error::from_reason("it was done already"))?;
        // A panic that left this function would end the process.
        let done = catch_unwind(AssertUnwindSafe(run));
        done.map_err(|_| napi::Error::from_reason("the native part panicked; this is a bug"))?.map_err(to_js)
    }

    fn resolve(&mut self, _: Env, output: T) -> napi::Result<T> {
        Ok(output)
    }
}
