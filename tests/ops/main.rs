//! Every operator against everything that is asked of it.
//!
//! Tests are generated: each operator's module gives [`Sample`]s, and for each
//! sample there are named tests of its gradients (f64, finite differences), of
//! its low-precision results, and of its independence of layout and threads.
//! [`golden`] adds one test per golden case. What an operator lacks shows as a
//! failing `registry::` test; what the tests together did not run of the kernels,
//! as a failing `registry::every_kernel_ran` after them.

mod arithmetic;
mod attention;
mod common;
mod conv;
mod conv_half;
#[path = "../common/dense_graph.rs"]
mod dense_graph;
mod dropout;
#[path = "../common/emulated.rs"]
mod emulated;
mod gcn;
mod golden;
mod harness;
mod index;
mod kernels;
mod layout;
mod linear_top_mean;
mod loss;
mod matmul;
mod norm;
mod normalise_tiles;
mod pad;
mod pointwise;
mod pool;
mod reduce;
mod resize;
mod softmax;
#[path = "../common/under_test.rs"]
mod under_test;

use emulated::{Binary, assert_every_kernel_ran};
use harness::{Sample, Suite};

fn samples() -> Vec<Sample> {
    let mut all = Vec::new();
    all.extend(arithmetic::samples());
    all.extend(conv::samples());
    all.extend(dropout::samples());
    all.extend(gcn::samples());
    all.extend(index::samples());
    all.extend(attention::samples());
    all.extend(layout::samples());
    all.extend(linear_top_mean::samples());
    all.extend(loss::samples());
    all.extend(matmul::samples());
    all.extend(pad::samples());
    all.extend(norm::samples());
    all.extend(normalise_tiles::samples());
    all.extend(pointwise::samples());
    all.extend(pool::samples());
    all.extend(reduce::samples());
    all.extend(resize::samples());
    all.extend(softmax::samples());
    all
}

/// A test of all the others, so it is one only where all of them ran.
fn every_kernel_ran(arguments: &libtest_mimic::Arguments) {
    if arguments.filter.is_some() || !arguments.skip.is_empty() || arguments.ignored {
        eprintln!("skipped: registry::every_kernel_ran, which looks at what all tests ran");
        return;
    }
    let mut after = Suite::default();
    after.test("registry::every_kernel_ran", || {
        assert_every_kernel_ran(Binary::Ops);
        Ok(())
    });
    libtest_mimic::run(arguments, after.trials).exit();
}

fn main() {
    eosin::device::cpu::poison_unwritten();
    let arguments = libtest_mimic::Arguments::from_args();
    let mut suite = Suite::default();
    suite.samples(samples());
    golden::tests(&mut suite);
    arithmetic::tests(&mut suite);
    conv::tests(&mut suite);
    conv_half::tests(&mut suite);
    dropout::tests(&mut suite);
    gcn::tests(&mut suite);
    index::tests(&mut suite);
    attention::tests(&mut suite);
    kernels::tests(&mut suite);
    layout::tests(&mut suite);
    linear_top_mean::tests(&mut suite);
    loss::tests(&mut suite);
    matmul::tests(&mut suite);
    pad::tests(&mut suite);
    norm::tests(&mut suite);
    normalise_tiles::tests(&mut suite);
    pointwise::tests(&mut suite);
    pool::tests(&mut suite);
    reduce::tests(&mut suite);
    resize::tests(&mut suite);
    softmax::tests(&mut suite);
    libtest_mimic::run(&arguments, suite.trials).exit_if_failed();
    every_kernel_ran(&arguments);
}
