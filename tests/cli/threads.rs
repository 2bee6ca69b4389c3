//! The same bytes for any number of threads.

use crate::support::*;

#[test]
fn runs_are_the_same_for_any_number_of_threads() {
    let folder = scratch();
    for threads in ["1", "2", "3"] {
        let out = folder.path().join(threads);
        let config = run_file(folder.path(), &[]);
        let mut args = train(&config, &out);
        args.extend(["--threads", threads]);
        succeeds(args);
        assert_same_run(finished(), &out);
    }
}
