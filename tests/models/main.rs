//! The models: against golden numbers, as sessions, and what training and
//! loading promise.

#[cfg(feature = "slides")]
mod classifier_run;
#[cfg(feature = "slides")]
mod deeppt_run;
#[cfg(feature = "slides")]
mod features;
mod formula_weights;
mod golden;
mod passes;
mod registry;
#[cfg(feature = "slides")]
mod rnagan_run;
mod sessions;
mod tcgn;
#[cfg(feature = "slides")]
mod tcgn_run;
#[cfg(feature = "slides")]
mod tiles;
mod training;
#[cfg(feature = "slides")]
mod trnasformer_run;

#[path = "../common/dense_graph.rs"]
mod dense_graph;
#[path = "../common/emulated.rs"]
mod emulated;
#[path = "../common/formula.rs"]
mod formula;
#[cfg(feature = "slides")]
#[path = "../common/sections.rs"]
mod sections;
#[path = "../common/stored.rs"]
mod stored;
#[path = "../common/trial.rs"]
mod trial;
#[path = "../common/under_test.rs"]
mod under_test;

fn main() {
    let arguments = libtest_mimic::Arguments::from_args();
    let mut trials = golden::trials();
    #[cfg(feature = "slides")]
    trials.extend(deeppt_run::trials().into_iter().chain(features::trials()));
    #[cfg(feature = "slides")]
    trials.extend(
        trnasformer_run::trials()
            .into_iter()
            .chain(tcgn_run::trials()),
    );
    #[cfg(feature = "slides")]
    trials.extend(
        rnagan_run::trials()
            .into_iter()
            .chain(classifier_run::trials())
            .chain(tiles::trials()),
    );
    trials.extend(passes::trials());
    trials.extend(registry::trials());
    trials.extend(sessions::trials());
    trials.extend(tcgn::trials());
    trials.extend(training::trials());
    libtest_mimic::run(&arguments, trials).exit();
}
