//! Every op on a GPU against its CPU implementation on the same numbers, at the shapes of every
//! ESM-2; and that neighbours do not change a bit there either.
//!
//! Ignored where there is no GPU that has what a test is of; `PLM_FLEET_REQUIRE_GPUS=1` makes it
//! fail there instead.

#[path = "../common/mod.rs"]
mod common;
mod int8;
mod stream;

use std::env;
use std::process::ExitCode;

use candle_core::{DType, Device, Tensor};
use common::{cu_seqlens, random, values};
use libtest_mimic::{Arguments, Trial};
use plm_kernels::{
    ContactHead, Contacts, CuSeqlens, Embedding, Gpu, GpuError, LayerNorm, LearnedPositions,
    QueryKeyNorm, ResidualLayerNorm, Rotary, TokenDropout, VarlenAttention, bias_gelu_inplace,
    count_gpus, describe_gpu, embed_tokens, first_token, residue_linear, residue_rows, segment_max,
    segment_mean, swiglu,
};

fn main() -> ExitCode {
    let is_there = count_gpus().is_ok_and(|count| count > 0);
    let is_hopper = check_int8().is_ok();
    let is_required = env::var("PLM_FLEET_REQUIRE_GPUS").is_ok_and(|count| count != "0");
    let trial = |name, test: fn()| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
        .with_ignored_flag(!is_there && !is_required)
    };
    // Only Hoppers have these. On another GPU they fail where GPUs are required, as they can't run.
    let hopper_trial = |name, test: fn()| {
        Trial::test(name, move || {
            check_int8().map_err(|error| format!("needs a Hopper: {error}"))?;
            test();
            Ok(())
        })
        .with_ignored_flag(!is_hopper && !is_required)
    };
    let trials = vec![
        trial(
            "layer_norms_are_those_of_the_cpu",
            layer_norms_are_those_of_the_cpu,
        ),
        trial("bias_gelu_is_that_of_the_cpu", bias_gelu_is_that_of_the_cpu),
        trial(
            "query_key_norms_are_those_of_the_cpu_and_leave_values_alone",
            query_key_norms_are_those_of_the_cpu_and_leave_values_alone,
        ),
        trial("swiglu_is_that_of_the_cpu", swiglu_is_that_of_the_cpu),
        trial(
            "embeddings_and_means_are_those_of_the_cpu",
            embeddings_and_means_are_those_of_the_cpu,
        ),
        trial(
            "first_rows_maxima_and_rows_of_residues_are_those_of_the_cpu",
            first_rows_maxima_and_rows_of_residues_are_those_of_the_cpu,
        ),
        trial(
            "products_of_residues_are_those_of_the_cpu_and_their_own",
            products_of_residues_are_those_of_the_cpu_and_their_own,
        ),
        trial(
            "contacts_are_those_of_the_cpu_and_their_own",
            contacts_are_those_of_the_cpu_and_their_own,
        ),
        trial(
            "downloads_of_any_length_bring_every_value",
            downloads_of_any_length_bring_every_value,
        ),
        trial("attention_is_that_of_the_cpu", attention_is_that_of_the_cpu),
        trial(
            "a_sequences_attention_and_mean_are_its_own",
            a_sequences_attention_and_mean_are_its_own,
        ),
        trial(
            "a_products_row_is_right_and_its_own_at_every_batch_size",
            a_products_row_is_right_and_its_own_at_every_batch_size,
        ),
        hopper_trial(
            "streams_that_do_not_fit_are_refused",
            stream::streams_that_do_not_fit_are_refused,
        ),
        hopper_trial(
            "products_with_layer_norms_are_those_of_the_cpu",
            stream::products_with_layer_norms_are_those_of_the_cpu,
        ),
        hopper_trial(
            "products_of_gates_and_normalised_queries_are_those_of_the_cpu",
            stream::products_of_gates_and_normalised_queries_are_those_of_the_cpu,
        ),
        hopper_trial(
            "a_token_projection_is_that_of_its_embeddings",
            stream::a_token_projection_is_that_of_its_embeddings,
        ),
        hopper_trial(
            "streams_that_are_not_finite_stay_so",
            stream::streams_that_are_not_finite_stay_so,
        ),
        hopper_trial(
            "products_of_8_bit_integers_are_those_of_the_cpu",
            int8::products_of_8_bit_integers_are_those_of_the_cpu,
        ),
        hopper_trial(
            "rows_that_are_not_finite_stay_so",
            int8::rows_that_are_not_finite_stay_so,
        ),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// hidden_size and heads of the released models, and of plm-tiny.
const SHAPES: [(usize, usize); 7] = [
    (128, 8),
    (320, 20),
    (480, 20),
    (640, 20),
    (1280, 20),
    (2560, 40),
    (5120, 40),
];
const FORMATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

fn check_int8() -> Result<(), GpuError> {
    describe_gpu(0)?.check_int8()
}

fn open() -> Gpu {
    Gpu::open(0).expect("there is a GPU")
}

fn gpu() -> Device {
    open().device().clone()
}

/// What one rounding of each output costs, and in 16 bits the roundings within an op.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 2e-6,
        DType::F16 => 2e-3,
        _ => 1.2e-2,
    }
}

/// Random numbers that the format can hold: as f32 on the CPU, and in the format on the GPU.
fn operand(dims: &[usize], seed: u64, dtype: DType, gpu: &Device) -> (Tensor, Tensor) {
    scaled_operand(1.0, dims, seed, dtype, gpu)
}

fn scaled_operand(
    scale: f32,
    dims: &[usize],
    seed: u64,
    dtype: DType,
    gpu: &Device,
) -> (Tensor, Tensor) {
    let mut values = random(dims.iter().product(), seed);
    values.iter_mut().for_each(|value| *value *= scale);
    let on_cpu = Tensor::from_vec(values, dims, &Device::Cpu)
        .unwrap()
        .to_dtype(dtype)
        .unwrap();
    let on_gpu = on_cpu.to_device(gpu).unwrap();
    (on_cpu.to_dtype(DType::F32).unwrap(), on_gpu)
}

fn host(tensor: &Tensor) -> Vec<f32> {
    values(
        &tensor
            .to_device(&Device::Cpu)
            .unwrap()
            .to_dtype(DType::F32)
            .unwrap(),
    )
}

fn assert_alike(what: &str, on_gpu: &Tensor, on_cpu: &Tensor, dtype: DType) {
    let expected: Vec<f64> = values(on_cpu).into_iter().map(f64::from).collect();
    common::assert_close(
        &format!("{what} in {dtype:?}"),
        &host(on_gpu),
        &expected,
        tolerance(dtype),
    );
}

/// Every row is right, not only most: the largest difference of a number, over the largest number.
fn assert_no_outlier(what: &str, on_gpu: &Tensor, on_cpu: &Tensor, dtype: DType) {
    let expected = values(on_cpu);
    let largest = expected
        .iter()
        .fold(0.0_f32, |most, value| most.max(value.abs()));
    for (i, (a, b)) in host(on_gpu).iter().zip(&expected).enumerate() {
        let error = f64::from((a - b).abs() / largest);
        assert!(
            error < 4.0 * tolerance(dtype),
            "{what} in {dtype:?}: {a} is {b} at {i}"
        );
    }
}

const TOKENS: [usize; 9] = [3, 130, 64, 65, 128, 129, 17, 1002, 4];

fn layer_norms_are_those_of_the_cpu() {
    let gpu = gpu();
    for dtype in FORMATS {
        for (hidden, _) in SHAPES {
            let rows = 37;
            let x = operand(&[rows, hidden], 1, dtype, &gpu);
            let projection = operand(&[rows, hidden], 2, dtype, &gpu);
            let [bias, weight, norm_bias] =
                [3, 4, 5].map(|seed| operand(&[hidden], seed, dtype, &gpu));
            let cpu = LayerNorm::new(&weight.0, &norm_bias.0, 1e-5)
                .unwrap()
                .forward(&x.0)
                .unwrap();
            let own = LayerNorm::new(&weight.1, &norm_bias.1, 1e-5)
                .unwrap()
                .forward(&x.1)
                .unwrap();
            assert_alike(&format!("layer_norm {hidden}"), &own, &cpu, dtype);
            let cpu = ResidualLayerNorm::new(&bias.0, &weight.0, &norm_bias.0, 1e-5).unwrap();
            let own = ResidualLayerNorm::new(&bias.1, &weight.1, &norm_bias.1, 1e-5).unwrap();
            let (cpu, own) = (
                cpu.forward(&x.0, &projection.0).unwrap(),
                own.forward(&x.1, &projection.1).unwrap(),
            );
            assert_alike(&format!("sum {hidden}"), &own.0, &cpu.0, dtype);
            assert_alike(
                &format!("residual_layer_norm {hidden}"),
                &own.1,
                &cpu.1,
                dtype,
            );
        }
    }
}

fn bias_gelu_is_that_of_the_cpu() {
    let gpu = gpu();
    for dtype in FORMATS {
        let widths = SHAPES.map(|(hidden, _)| 4 * hidden);
        // 33 is that of logits, and no whole number of 16-byte vectors.
        for width in widths.into_iter().chain([33]) {
            let x = operand(&[29, width], 1, dtype, &gpu);
            let bias = operand(&[width], 2, dtype, &gpu);
            bias_gelu_inplace(&x.0, &bias.0).unwrap();
            bias_gelu_inplace(&x.1, &bias.1).unwrap();
            assert_alike(&format!("bias_gelu {width}"), &x.1, &x.0, dtype);
        }
    }
}

/// hidden_size of the released ESM Cs and of two small ones, the latter in rows of one warp.
const ESMC_WIDTHS: [usize; 5] = [96, 128, 960, 1152, 2560];

fn query_key_norms_are_those_of_the_cpu_and_leave_values_alone() {
    let gpu = gpu();
    for dtype in FORMATS {
        for hidden in ESMC_WIDTHS {
            let rows = 37;
            let qkv = operand(&[rows, 3 * hidden], 1, dtype, &gpu);
            let [query, key] = [2, 3].map(|seed| operand(&[hidden], seed, dtype, &gpu));
            let values = |qkv: &Tensor| host(&qkv.narrow(1, 2 * hidden, hidden).unwrap());
            let before = values(&qkv.0);
            let cpu = QueryKeyNorm::new(&query.0, &key.0, 1e-5).unwrap();
            cpu.forward_inplace(&qkv.0).unwrap();
            let own = QueryKeyNorm::new(&query.1, &key.1, 1e-5).unwrap();
            own.forward_inplace(&qkv.1).unwrap();
            let what = format!("query_key_norm {hidden}");
            assert_alike(&what, &qkv.1, &qkv.0, dtype);
            assert_no_outlier(&what, &qkv.1, &qkv.0, dtype);
            let own = qkv.1.to_device(&Device::Cpu).unwrap();
            assert!(values(&own) == before, "{what}");
        }
    }
}

fn swiglu_is_that_of_the_cpu() {
    let gpu = gpu();
    for dtype in FORMATS {
        // Those of the released ESM Cs, and a row that a warp does not fill.
        for width in [8, 256, 2_560, 3_072, 6_912] {
            let x = scaled_operand(4.0, &[29, 2 * width], 1, dtype, &gpu);
            let (cpu, own) = (swiglu(&x.0).unwrap(), swiglu(&x.1).unwrap());
            let what = format!("swiglu {width}");
            assert_alike(&what, &own, &cpu, dtype);
            assert_no_outlier(&what, &own, &cpu, dtype);
        }
    }
    // What is not finite is seen.
    let x = Tensor::from_vec(vec![f32::NAN; 16], (1, 16), &gpu).unwrap();
    assert!(
        host(&swiglu(&x).unwrap())
            .iter()
            .all(|value| value.is_nan())
    );
}

fn embeddings_and_means_are_those_of_the_cpu() {
    let gpu = gpu();
    let lengths = cu_seqlens(&TOKENS);
    let total = lengths.total_tokens();
    // Every 7th token is masked.
    let ids: Vec<u32> = (0..total as u32)
        .map(|i| if i % 7 == 3 { 32 } else { i % 31 })
        .collect();
    let token_ids = Tensor::new(ids, &Device::Cpu).unwrap();
    for dtype in FORMATS {
        for (hidden, _) in SHAPES {
            let table = operand(&[33, hidden], 1, dtype, &gpu);
            // As many rows as the longest sequence takes. Padding, which is token 1, has its own.
            let rows = lengths.max_sequence_tokens() + 2;
            let (rows_on_cpu, rows_on_gpu) = operand(&[rows, hidden], 3, dtype, &gpu);
            let learned = |table| LearnedPositions::new(table, 1).unwrap();
            let positions = (learned(rows_on_cpu), learned(rows_on_gpu));
            let dropout = Some(TokenDropout { mask_token_id: 32 });
            let own_ids = token_ids.to_device(&gpu).unwrap();
            for (token_dropout, has_positions) in [
                (None, false),
                (dropout, false),
                (None, true),
                (dropout, true),
            ] {
                let embed = |table, ids, positions| {
                    let embedding = Embedding {
                        token_dropout,
                        positions: has_positions.then_some(positions),
                    };
                    embed_tokens(table, ids, &lengths, embedding).unwrap()
                };
                let cpu = embed(&table.0, &token_ids, &positions.0);
                let own = embed(&table.1, &own_ids, &positions.1);
                assert_alike(&format!("embed_tokens {hidden}"), &own, &cpu, dtype);
            }
            // What is outside a table is not read.
            let nan = |ids: &[u32], embedding| {
                let ids = Tensor::new(ids, &gpu).unwrap();
                let alone = cu_seqlens(&[3]);
                let embedded = embed_tokens(&table.1, &ids, &alone, embedding).unwrap();
                let rows = host(&embedded);
                let rows = rows.chunks_exact(hidden).map(|row| {
                    let nan = row.iter().filter(|value| value.is_nan()).count();
                    assert!(nan == 0 || nan == hidden);
                    nan > 0
                });
                rows.collect::<Vec<bool>>()
            };
            let plain = Embedding::default();
            assert_eq!(nan(&[32, 33, u32::MAX], plain), [false, true, true]);
            let two = learned(operand(&[4, hidden], 3, dtype, &gpu).1);
            let two = Embedding {
                positions: Some(&two),
                ..plain
            };
            assert_eq!(nan(&[5, 6, 7], two), [false, false, true]);

            let x = operand(&[total, hidden], 2, dtype, &gpu);
            let cpu = segment_mean(&x.0, &lengths).unwrap();
            let own = segment_mean(&x.1, &lengths).unwrap();
            // Sums are f32 whatever the format is.
            assert_alike(&format!("segment_mean {hidden}"), &own, &cpu, DType::F32);
        }
    }
}

/// What is only picked is the same bit for bit.
fn first_rows_maxima_and_rows_of_residues_are_those_of_the_cpu() {
    let gpu = gpu();
    let lengths = cu_seqlens(&TOKENS);
    let total = lengths.total_tokens();
    for dtype in FORMATS {
        for (hidden, _) in SHAPES {
            let x = operand(&[total, hidden], 2, dtype, &gpu);
            let pairs = [
                (segment_max(&x.1, &lengths), segment_max(&x.0, &lengths)),
                (first_token(&x.1, &lengths), first_token(&x.0, &lengths)),
                (
                    residue_rows(&x.1, &lengths, DType::F32),
                    residue_rows(&x.0, &lengths, DType::F32),
                ),
                (
                    residue_rows(&x.1, &lengths, DType::F16),
                    residue_rows(&x.0, &lengths, DType::F16),
                ),
            ];
            for (number, (own, cpu)) in pairs.into_iter().enumerate() {
                let (own, cpu) = (own.unwrap(), cpu.unwrap());
                assert_eq!((own.dims(), own.dtype()), (cpu.dims(), cpu.dtype()));
                assert!(host(&own) == host(&cpu), "{number}: {hidden} in {dtype:?}");
            }
        }
    }
    // A NaN in any row of residues is seen, and one in special tokens is not.
    for row in 0..5 {
        let mut x = vec![-1.0_f32; 5 * 8];
        x[row * 8 + 3] = f32::NAN;
        let x = Tensor::from_vec(x, (5, 8), &gpu).unwrap();
        let max = host(&segment_max(&x, &cu_seqlens(&[5])).unwrap());
        let is_nan: Vec<bool> = max.iter().map(|value| value.is_nan()).collect();
        let of_a_residue = (1..4).contains(&row);
        assert_eq!(
            is_nan.iter().filter(|nan| **nan).count(),
            usize::from(of_a_residue)
        );
        assert_eq!(is_nan[3], of_a_residue);
    }
    // What f16 can't hold becomes infinite, as on the CPU.
    let x = Tensor::from_vec(vec![7e4_f32; 3 * 8], (3, 8), &gpu).unwrap();
    let rows = host(&residue_rows(&x, &cu_seqlens(&[3]), DType::F16).unwrap());
    assert_eq!(rows, [f32::INFINITY; 8]);
}

fn products_of_residues_are_those_of_the_cpu_and_their_own() {
    let gpu = gpu();
    let lengths = cu_seqlens(&TOKENS);
    let total = lengths.total_tokens();
    for dtype in FORMATS {
        for (hidden, _) in SHAPES {
            for outputs in [1, 33, 64] {
                let x = operand(&[total, hidden], 1, dtype, &gpu);
                let weight = operand(&[outputs, hidden], 2, dtype, &gpu);
                let bias = operand(&[outputs], 3, DType::F32, &gpu);
                let cpu = residue_linear(&x.0, &weight.0, &bias.0, &lengths, DType::F32).unwrap();
                let own = |x: &Tensor, lengths: &CuSeqlens, to| {
                    residue_linear(x, &weight.1, &bias.1, lengths, to).unwrap()
                };
                let together = own(&x.1, &lengths, DType::F32);
                // Sums are f32 whatever the format is.
                let what = format!("residue_linear of {hidden} to {outputs}, {dtype:?}");
                assert_alike(&what, &together, &cpu, DType::F32);
                let rounded = together.to_device(&Device::Cpu).unwrap();
                let rounded = rounded.to_dtype(DType::F16).unwrap();
                let halves = own(&x.1, &lengths, DType::F16);
                assert!(host(&halves) == host(&rounded), "{what}");
                let mut residues = 0;
                for range in lengths.ranges() {
                    let part = x.1.narrow(0, range.start, range.len()).unwrap();
                    let alone = own(&part, &cu_seqlens(&[range.len()]), DType::F32);
                    let packed = together.narrow(0, residues, range.len() - 2).unwrap();
                    assert!(
                        host(&alone) == host(&packed),
                        "{what}, {} tokens",
                        range.len()
                    );
                    residues += range.len() - 2;
                }
            }
        }
    }
}

/// Contacts of three layers, from queries and keys `[total_tokens, 3 * hidden]` of each.
fn contacts(
    lengths: &CuSeqlens,
    heads: usize,
    layers: &[Tensor],
    (bias, weights): (&Tensor, &[f32]),
    to: DType,
) -> Tensor {
    let hidden = layers[0].dims()[1] / 3;
    let device = bias.device();
    let rotary = Rotary::new(hidden / heads, 2048, device).unwrap();
    let head = ContactHead::new(weights.to_vec(), -0.4, heads, device).unwrap();
    let contacts = Contacts::new(&head, lengths).unwrap();
    let attention = VarlenAttention {
        cu_seqlens: lengths,
        rotary: &rotary,
        num_heads: heads,
        contacts: Some(&contacts),
    };
    for qkv in layers {
        attention.forward(qkv, bias).unwrap();
    }
    contacts.finish(to).unwrap()
}

fn contacts_are_those_of_the_cpu_and_their_own() {
    let gpu = gpu();
    let two_heads = [16, 24, 32, 64, 128].map(|head_dim| (2 * head_dim, 2));
    for dtype in FORMATS {
        for (hidden, heads) in two_heads.into_iter().chain(SHAPES) {
            // A residue more or less than tiles of 64.
            let tokens = match heads {
                2 => &[3, 130, 64, 65, 66, 67, 17, 1002, 4, 194][..],
                _ => &[3, 130, 67, 4],
            };
            let lengths = cu_seqlens(tokens);
            let dims = [lengths.total_tokens(), 3 * hidden];
            let layers = [1, 2, 3].map(|seed| operand(&dims, seed, dtype, &gpu));
            let bias = operand(&[3 * hidden], 9, dtype, &gpu);
            let weights: Vec<f32> = random(3 * heads, 10).iter().map(|x| 20.0 * x).collect();
            let [on_cpu, on_gpu] = [
                layers.each_ref().map(|layer| layer.0.clone()),
                layers.each_ref().map(|layer| layer.1.clone()),
            ];
            let cpu = contacts(&lengths, heads, &on_cpu, (&bias.0, &weights), DType::F32);
            let own = |lengths: &CuSeqlens, layers: &[Tensor], to| {
                contacts(lengths, heads, layers, (&bias.1, &weights), to)
            };
            let together = own(&lengths, &on_gpu, DType::F32);
            let what = format!("contacts of {heads} heads in {hidden}, {dtype:?}");
            // Queries and keys are the same numbers, and all that follows is f32.
            let expected: Vec<f64> = host(&cpu).into_iter().map(f64::from).collect();
            common::assert_close(&what, &host(&together), &expected, 1e-5);
            let rounded = together.to_device(&Device::Cpu).unwrap();
            let rounded = rounded.to_dtype(DType::F16).unwrap();
            assert!(
                host(&own(&lengths, &on_gpu, DType::F16)) == host(&rounded),
                "{what}"
            );
            let all = host(&together);
            let mut rest = &all[..];
            for range in lengths.ranges() {
                let residues = range.len() - 2;
                let packed;
                (packed, rest) = rest.split_at(residues * residues);
                let parts = on_gpu
                    .each_ref()
                    .map(|layer| layer.narrow(0, range.start, range.len()).unwrap());
                let alone = own(&cu_seqlens(&[range.len()]), &parts, DType::F32);
                assert!(host(&alone) == packed, "{what}: {residues} residues");
                let is_symmetric = (0..residues * residues).all(|pair| {
                    let (row, column) = (pair / residues, pair % residues);
                    packed[pair] == packed[column * residues + row]
                });
                assert!(is_symmetric, "{what}: {residues} residues");
            }
            assert!(rest.is_empty());
        }
    }
}

fn downloads_of_any_length_bring_every_value() {
    let opened = open();
    let device = opened.device();
    for len in [1, 2, 3, 4_095, 4_097, 100_001] {
        let values = random(len, 1);
        let in_f32 = Tensor::from_vec(values, len, &Device::Cpu).unwrap();
        let in_f16 = in_f32.to_dtype(DType::F16).unwrap();
        let there = [&in_f32, &in_f16].map(|tensor| tensor.to_device(device).unwrap());
        // Several are on their way at once.
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let f32s = opened.download::<f32>(&there[0]).unwrap();
                (f32s, opened.download::<half::f16>(&there[1]).unwrap())
            })
            .collect();
        for (f32s, f16s) in waiting {
            assert_eq!(
                f32s.wait(Vec::with_capacity).unwrap(),
                values_of::<f32>(&in_f32)
            );
            assert_eq!(
                f16s.wait(Vec::with_capacity).unwrap(),
                values_of::<half::f16>(&in_f16)
            );
        }
    }
}

fn values_of<T: candle_core::WithDType>(tensor: &Tensor) -> Vec<T> {
    tensor.to_vec1().unwrap()
}

fn attention(
    lengths: &CuSeqlens,
    (hidden, num_heads): (usize, usize),
    qkv: &Tensor,
    bias: &Tensor,
) -> Tensor {
    let head_dim = hidden / num_heads;
    let rotary = Rotary::new(head_dim, 2048, qkv.device()).unwrap();
    let attention = VarlenAttention {
        cu_seqlens: lengths,
        rotary: &rotary,
        num_heads,
        contacts: None,
    };
    attention.forward(qkv, bias).unwrap()
}

fn attention_is_that_of_the_cpu() {
    let gpu = gpu();
    for dtype in FORMATS {
        // All lengths with two heads of each head_dim, and the models' own number of heads with
        // some.
        let two_heads = [16, 24, 32, 64, 128].map(|head_dim| (2 * head_dim, 2, &[1, 2, 2000][..]));
        let all_heads = SHAPES.map(|(hidden, num_heads)| (hidden, num_heads, &[1][..]));
        for (hidden, num_heads, more) in two_heads.into_iter().chain(all_heads) {
            let tokens = if num_heads == 2 {
                &TOKENS[..]
            } else {
                &TOKENS[..3]
            };
            let lengths = cu_seqlens(&[tokens, more].concat());
            let qkv = operand(&[lengths.total_tokens(), 3 * hidden], 1, dtype, &gpu);
            let bias = operand(&[3 * hidden], 2, dtype, &gpu);
            let cpu = attention(&lengths, (hidden, num_heads), &qkv.0, &bias.0);
            let own = attention(&lengths, (hidden, num_heads), &qkv.1, &bias.1);
            let what = format!("attention of {num_heads} heads in {hidden}");
            assert_alike(&what, &own, &cpu, dtype);
            assert_no_outlier(&what, &own, &cpu, dtype);
        }
    }
}

fn a_sequences_attention_and_mean_are_its_own() {
    let gpu = gpu();
    let lengths = cu_seqlens(&TOKENS);
    for dtype in FORMATS {
        for (hidden, num_heads) in SHAPES {
            let qkv = operand(&[lengths.total_tokens(), 3 * hidden], 1, dtype, &gpu).1;
            let bias = operand(&[3 * hidden], 2, dtype, &gpu).1;
            let together = attention(&lengths, (hidden, num_heads), &qkv, &bias);
            let means = segment_mean(&together, &lengths).unwrap();
            for (i, range) in lengths.ranges().enumerate() {
                let own = cu_seqlens(&[range.len()]);
                let part = qkv.narrow(0, range.start, range.len()).unwrap();
                let alone = attention(&own, (hidden, num_heads), &part, &bias);
                let packed = together.narrow(0, range.start, range.len()).unwrap();
                assert!(
                    host(&alone) == host(&packed),
                    "{} tokens of {hidden} in {dtype:?}",
                    range.len()
                );
                let mean = segment_mean(&alone, &own).unwrap();
                assert!(host(&mean) == host(&means.narrow(0, i, 1).unwrap()));
            }
        }
    }
}

fn a_products_row_is_right_and_its_own_at_every_batch_size() {
    let opened = open();
    let gpu = opened.device().clone();
    let mut varying = Vec::new();
    for dtype in FORMATS {
        for (hidden, _) in SHAPES {
            for (inputs, outputs) in [
                (hidden, 3 * hidden),
                (hidden, hidden),
                (hidden, 4 * hidden),
                (4 * hidden, hidden),
            ] {
                let rows = 3000;
                let x = operand(&[rows, inputs], 1, dtype, &gpu);
                let weight = operand(&[outputs, inputs], 2, dtype, &gpu);
                let residual = operand(&[rows, outputs], 3, dtype, &gpu);
                let bias = operand(&[outputs], 4, dtype, &gpu);
                let linear = opened.linear(weight.1.clone());
                let plain = |start, rows| linear.forward(&x.1.narrow(0, start, rows).unwrap());
                let onto = |start, rows| {
                    let [residual, x] =
                        [&residual.1, &x.1].map(|tensor| tensor.narrow(0, start, rows).unwrap());
                    linear.forward_onto(&residual, &x, &bias.1)
                };
                let whole = [plain(0, rows).unwrap(), onto(0, rows).unwrap()];

                // Some rows and columns of the product: all of them take minutes in f64.
                let (few, columns) = (16, 128);
                // In f64: over 20,480 numbers, f32 sums in any order differ by more than they
                // should from the truth.
                let [first, exact_weight, first_residual, exact_bias] = [
                    &x.0.narrow(0, 0, few).unwrap().contiguous().unwrap(),
                    &weight.0.narrow(0, 0, columns).unwrap(),
                    &residual
                        .0
                        .narrow(0, 0, few)
                        .unwrap()
                        .narrow(1, 0, columns)
                        .unwrap(),
                    &bias.0.narrow(0, 0, columns).unwrap(),
                ]
                .map(|tensor| tensor.to_dtype(DType::F64).unwrap());
                let product = first.matmul(&exact_weight.t().unwrap()).unwrap();
                let sum = (&product + &first_residual).unwrap();
                let sum = sum.broadcast_add(&exact_bias).unwrap();
                for (what, own, exact) in [
                    ("product", &whole[0], &product),
                    ("product onto a residual", &whole[1], &sum),
                ] {
                    let exact: Vec<f64> = exact.flatten_all().unwrap().to_vec1().unwrap();
                    let own = own
                        .narrow(0, 0, few)
                        .unwrap()
                        .to_device(&Device::Cpu)
                        .unwrap();
                    let own = host(&own.narrow(1, 0, columns).unwrap());
                    let what = format!("{what} of {inputs} to {outputs} in {dtype:?}");
                    // Roundings of f32 sums add up as a random walk does (Higham and Mary 2019,
                    // doi:10.1137/18M1226312).
                    let of_sum = (inputs as f64).sqrt() * f64::from(f32::EPSILON) / 2.0;
                    let of_output = match dtype {
                        DType::F32 => 0.0,
                        _ => tolerance(dtype),
                    };
                    common::assert_close(&what, &own, &exact, of_sum + of_output);
                }

                for (start, rows) in [
                    (0, 1),
                    (0, 3),
                    (5, 17),
                    (100, 128),
                    (7, 511),
                    (900, 2100),
                    (2999, 1),
                ] {
                    for (part, whole) in [plain(start, rows), onto(start, rows)].iter().zip(&whole)
                    {
                        let packed = whole.narrow(0, start, rows).unwrap();
                        if host(part.as_ref().unwrap()) != host(&packed) {
                            varying
                                .push(format!("{inputs} to {outputs}, {rows} rows in {dtype:?}"));
                        }
                    }
                }
            }
        }
    }
    assert!(
        varying.is_empty(),
        "bits change with the batch:\n{}",
        varying.join("\n")
    );
}
