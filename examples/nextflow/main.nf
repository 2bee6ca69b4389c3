// Features of a folder of slides, then expression by a finished run:
//
//   nextflow run examples/nextflow --slides SLIDES --model RUN --out OUT --shards 8
//   nextflow run examples/nextflow --slides SLIDES --weights resnet50.pth --mpp 0.5 --out OUT
//
// All tasks of a step share one folder on a file system with locks. Each takes its part of
// the slides; a task that is retried, or a workflow that is started again, goes on where it
// stopped. Exit code 3 says that all is done but some slides could not be read: that is no
// failure of the task, and the slides are named in its log and under OUT/job/status.
nextflow.enable.dsl = 2

params.slides = null
params.model = null
params.weights = null
params.encoder = 'resnet50'
params.mpp = null
params.patch_size = 224
params.stain = null
params.list = null
params.out = 'eosin-out'
params.shards = 4
params.memory = '4G'
params.eosin = 'eosin'

// Options that are given, as the command takes them.
def given(Map options) {
    options.findAll { it.value != null }.collect { "--${it.key} '${it.value}'" }.join(' ')
}

process FEATURES {
    tag "${shard}/${params.shards}"

    input:
    val shard

    output:
    val shard

    script:
    """
    set +e
    ${params.eosin} --quiet --threads ${task.cpus} features --wsi-dir '${params.slides}' --job-dir '${params.out}/job' \\
        --encoder ${params.encoder} --weights '${params.weights}' --mpp ${params.mpp} --patch-size ${params.patch_size} \\
        --memory ${params.memory} --shard ${shard}/${params.shards} ${given(stain: params.stain, list: params.list)}
    code=\$?
    [ \$code -eq 3 ] && exit 0
    exit \$code
    """
}

process PREDICT {
    tag "${shard}/${params.shards}"

    input:
    val shard

    output:
    val shard

    script:
    """
    set +e
    ${params.eosin} --quiet --threads ${task.cpus} run --wsi-dir '${params.slides}' --model '${params.model}' \\
        --output '${params.out}' --memory ${params.memory} --shard ${shard}/${params.shards} \\
        ${given(mpp: params.mpp, list: params.list)}
    code=\$?
    [ \$code -eq 3 ] && exit 0
    exit \$code
    """
}

// Everything is there: what is left is the tables and the report.
process GATHER {
    input:
    val shards

    output:
    stdout

    script:
    """
    set +e
    ${params.eosin} --quiet --threads ${task.cpus} run --wsi-dir '${params.slides}' --model '${params.model}' \\
        --output '${params.out}' --memory ${params.memory} ${given(mpp: params.mpp, list: params.list)}
    code=\$?
    [ \$code -eq 3 ] && exit 0
    exit \$code
    """
}

workflow {
    if (!params.slides || !(params.model || (params.weights && params.mpp))) {
        error 'give --slides, and --model, or --weights with --mpp'
    }
    shards = Channel.of(0..<(params.shards as int)).flatten()
    if (params.model) {
        PREDICT(shards)
        GATHER(PREDICT.out.collect()).view()
    } else {
        FEATURES(shards)
    }
}
