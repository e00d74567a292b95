//! Products that layer norms are part of.

use candle_core::{DType, Device, Tensor};
use plm_kernels::{
    CuSeqlens, LayerNorm, QueryKeyNorm, Rotary, Stream, StreamLinear, TokenProjection,
    VarlenAttention, bias_gelu_inplace, swiglu,
};

use crate::common::{cu_seqlens, random, values};
use crate::{
    TOKENS, assert_alike, assert_no_outlier, attention, gpu, host, operand, scaled_operand,
};

const EPS: f32 = 1e-5;

/// A weight on the CPU and a bias, and both on the GPU; `is_behind_norm` as [`StreamLinear`] asks
/// for it.
struct Both {
    weight: Tensor,
    bias: Tensor,
    own: StreamLinear,
}

impl Both {
    fn new(dims: (usize, usize), seed: u64, is_behind_norm: bool, like: &Tensor) -> Self {
        let (outputs, inputs) = dims;
        let scale = (inputs as f32).powf(-0.5);
        let (mut weight, _) =
            scaled_operand(scale, &[outputs, inputs], seed, DType::F32, &Device::Cpu);
        if is_behind_norm {
            let means = weight.mean_keepdim(1).unwrap();
            weight = weight.broadcast_sub(&means).unwrap();
        }
        let weight = weight.to_dtype(like.dtype()).unwrap();
        let bias = Tensor::from_vec(random(outputs, seed + 1), outputs, &Device::Cpu).unwrap();
        let own = StreamLinear::new(
            weight.to_device(like.device()).unwrap(),
            bias.to_device(like.device()).unwrap(),
        );
        Self {
            weight: weight.to_dtype(DType::F32).unwrap(),
            bias,
            own: own.unwrap(),
        }
    }

    fn product(&self, x: &Tensor) -> Tensor {
        x.matmul(&self.weight.t().unwrap()).unwrap()
    }
}

/// Rows over their deviation, on the CPU.
fn normalised(rows: &Tensor) -> Tensor {
    let width = rows.dims()[1];
    let all = |value: f32| Tensor::full(value, width, &Device::Cpu).unwrap();
    let norm = LayerNorm::new(&all(1.0), &all(0.0), EPS).unwrap();
    norm.forward(rows).unwrap()
}

fn bits(x: &Tensor) -> Vec<u32> {
    host(x).iter().map(|x| x.to_bits()).collect()
}

fn on_cpu(rows: &Tensor) -> Tensor {
    let rows = rows.to_device(&Device::Cpu).unwrap();
    rows.to_dtype(DType::F32).unwrap()
}

pub(crate) fn products_with_layer_norms_are_those_of_the_cpu() {
    let gpu = gpu();
    let lengths = cu_seqlens(&TOKENS);
    let total = lengths.total_tokens();
    let shapes = [
        (64, 1),
        (320, 20),
        (640, 20),
        // Of ESM C, in narrow tiles.
        (960, 15),
        (1152, 18),
        (1024, 16),
        (1088, 17),
        (1280, 20),
        (2560, 40),
        // Several tiles per block, the last of a row of them not whole.
        (2624, 41),
        (5120, 40),
    ];
    for dtype in [DType::F16, DType::BF16] {
        for (hidden, num_heads) in shapes {
            // Rows with a mean, and one column that is larger than the others.
            let stream = scaled_operand(4.0, &[total, hidden], 1, dtype, &gpu).0;
            let mut numbers = values(&stream);
            for row in numbers.chunks_mut(hidden) {
                row.iter_mut().for_each(|x| *x += 1.5);
                row[7] *= 20.0;
            }
            let stream = Tensor::from_vec(numbers, (total, hidden), &Device::Cpu)
                .and_then(|stream| stream.to_dtype(dtype))
                .unwrap();
            let stream = (on_cpu(&stream), stream.to_device(&gpu).unwrap());
            let inner = operand(&[total, 2 * hidden], 2, dtype, &gpu);
            let onto = Both::new((hidden, 2 * hidden), 3, false, &inner.1);
            let fc1 = Both::new((4 * hidden, hidden), 5, true, &inner.1);
            let qkv = Both::new((3 * hidden, hidden), 7, true, &inner.1);

            // Moments of rows that were only read, and of rows that a product was added to.
            let before = Stream::new(stream.1.clone()).unwrap();
            let after = onto.own.forward_onto(before.rows(), &inner.1).unwrap();
            let cpu = (stream.0.clone() + onto.product(&inner.0)).unwrap();
            let cpu = cpu.broadcast_add(&onto.bias).unwrap();
            let what = format!("product onto a stream of {hidden}");
            assert_alike(&what, after.rows(), &cpu, dtype);
            assert_no_outlier(&what, after.rows(), &cpu, dtype);

            // Onto rows that are no larger than what is added, none of which may then be missing.
            let small = operand(&[total, hidden], 9, dtype, &gpu);
            let own = onto.own.forward_onto(&small.1, &inner.1).unwrap();
            let cpu = (small.0 + onto.product(&inner.0)).unwrap();
            let cpu = cpu.broadcast_add(&onto.bias).unwrap();
            assert_alike(&what, own.rows(), &cpu, dtype);
            assert_no_outlier(&what, own.rows(), &cpu, dtype);

            let rotary = Rotary::new(hidden / num_heads, 2048, &gpu).unwrap();
            let attend = |lengths: &CuSeqlens, x: &Stream| {
                let attention = VarlenAttention {
                    cu_seqlens: lengths,
                    rotary: &rotary,
                    num_heads,
                    contacts: None,
                };
                qkv.own.forward_attention(x, EPS, &attention).unwrap()
            };
            for (which, x) in [("read", &before), ("added to", &after)] {
                let normal = normalised(&on_cpu(x.rows()));
                let cpu = fc1.product(&normal);
                bias_gelu_inplace(&cpu, &fc1.bias).unwrap();
                let own = fc1.own.forward_gelu(x, EPS).unwrap();
                let what = format!("norm, product and GELU of {hidden}, {which}");
                assert_alike(&what, &own, &cpu, dtype);
                assert_no_outlier(&what, &own, &cpu, dtype);

                let projected = qkv.product(&normal);
                let cpu = attention(&lengths, (hidden, num_heads), &projected, &qkv.bias);
                let own = attend(&lengths, x);
                let what = format!("norm, product and attention of {hidden}, {which}");
                assert_alike(&what, &own, &cpu, dtype);
                assert_no_outlier(&what, &own, &cpu, dtype);
            }

            // A row's bits are its own, and a sequence's.
            let attended = attend(&lengths, &after);
            let inner_after = fc1.own.forward_gelu(&after, EPS).unwrap();
            for range in lengths.ranges() {
                let part = |x: &Tensor| x.narrow(0, range.start, range.len()).unwrap();
                let alone = part(&stream.1);
                let alone = onto.own.forward_onto(&alone, &part(&inner.1)).unwrap();
                let own = [
                    alone.rows().clone(),
                    fc1.own.forward_gelu(&alone, EPS).unwrap(),
                    attend(&cu_seqlens(&[range.len()]), &alone),
                ];
                for (own, packed) in own.iter().zip([after.rows(), &inner_after, &attended]) {
                    assert!(
                        bits(own) == bits(&part(packed)),
                        "{} tokens of {hidden} in {dtype:?}",
                        range.len()
                    );
                }
            }
        }
    }
}

/// What only ESM C has: SwiGLU behind a product, and layer norms of queries and keys.
pub(crate) fn products_of_gates_and_normalised_queries_are_those_of_the_cpu() {
    let gpu = gpu();
    let lengths = cu_seqlens(&TOKENS);
    let total = lengths.total_tokens();
    for dtype in [DType::F16, DType::BF16] {
        for (hidden, num_heads, ffn) in [
            (64, 1, 192),
            (960, 15, 2560),
            (1152, 18, 3072),
            (2560, 40, 6912),
        ] {
            let rows = scaled_operand(2.0, &[total, hidden], 1, dtype, &gpu);
            let stream = Stream::new(rows.1).unwrap();
            let normal = normalised(&rows.0);

            let [gates, up] =
                [3, 5].map(|seed| Both::new((ffn, hidden), seed, true, stream.rows()));
            let interleaved = |of: fn(&Both) -> &Tensor, dtype| {
                let both = StreamLinear::interleave_gates(of(&gates), of(&up)).unwrap();
                both.to_dtype(dtype).unwrap().to_device(&gpu).unwrap()
            };
            let both = StreamLinear::new(
                interleaved(|both| &both.weight, dtype),
                interleaved(|both| &both.bias, DType::F32),
            );
            let own = both.unwrap().forward_swiglu(&stream, EPS).unwrap();
            let side = |both: &Both| both.product(&normal).broadcast_add(&both.bias).unwrap();
            let cpu = swiglu(&Tensor::cat(&[side(&gates), side(&up)], 1).unwrap()).unwrap();
            let what = format!("norm, product and SwiGLU of {hidden}");
            assert_eq!(own.dims(), [total, ffn]);
            assert_alike(&what, &own, &cpu, dtype);
            assert_no_outlier(&what, &own, &cpu, dtype);

            let qkv = Both::new((3 * hidden, hidden), 7, true, stream.rows());
            let gains = [9, 11].map(|seed| operand(&[hidden], seed, dtype, &gpu));
            let norm = |[query, key]: [&Tensor; 2]| QueryKeyNorm::new(query, key, EPS).unwrap();
            let on_gpu = norm(gains.each_ref().map(|gain| &gain.1));
            let rotary = Rotary::new(hidden / num_heads, 2048, &gpu).unwrap();
            let attend = |lengths: &CuSeqlens, x: &Stream| {
                let attention = VarlenAttention {
                    cu_seqlens: lengths,
                    rotary: &rotary,
                    num_heads,
                    contacts: None,
                };
                (qkv.own)
                    .forward_normalised_attention(x, EPS, &on_gpu, &attention)
                    .unwrap()
            };
            let own = attend(&lengths, &stream);
            let projected = qkv.product(&normal).broadcast_add(&qkv.bias).unwrap();
            norm(gains.each_ref().map(|gain| &gain.0))
                .forward_inplace(&projected)
                .unwrap();
            let no_bias = Tensor::zeros(3 * hidden, DType::F32, &Device::Cpu).unwrap();
            let cpu = attention(&lengths, (hidden, num_heads), &projected, &no_bias);
            let what = format!("norms, product and attention of {hidden}");
            assert_alike(&what, &own, &cpu, dtype);
            assert_no_outlier(&what, &own, &cpu, dtype);

            for range in lengths.ranges() {
                let part = |x: &Tensor| x.narrow(0, range.start, range.len()).unwrap();
                let alone = Stream::new(part(stream.rows())).unwrap();
                assert!(
                    bits(&attend(&cu_seqlens(&[range.len()]), &alone)) == bits(&part(&own)),
                    "{} tokens of {hidden} in {dtype:?}",
                    range.len()
                );
            }
        }
    }
}

/// Looked up, the projection of tokens has the bits that it has multiplied.
pub(crate) fn a_token_projection_is_that_of_its_embeddings() {
    let gpu = gpu();
    let vocabulary = 33;
    let lengths = cu_seqlens(&TOKENS);
    let total = lengths.total_tokens();
    let ids: Vec<u32> = random(total, 3)
        .iter()
        .map(|x| (x.abs() * 1e4) as u32 % vocabulary)
        .collect();
    let ids = Tensor::from_vec(ids, total, &gpu).unwrap();
    for dtype in [DType::F16, DType::BF16] {
        for (hidden, num_heads) in [(64, 1), (1088, 17), (1280, 20), (2560, 40)] {
            let embeddings = operand(&[vocabulary as usize, hidden], 1, dtype, &gpu).1;
            let qkv = Both::new((3 * hidden, hidden), 7, true, &embeddings).own;
            let rotary = Rotary::new(hidden / num_heads, 2048, &gpu).unwrap();
            let attention = VarlenAttention {
                cu_seqlens: &lengths,
                rotary: &rotary,
                num_heads,
                contacts: None,
            };
            let rows = Stream::new(embeddings.index_select(&ids, 0).unwrap()).unwrap();
            let multiplied = qkv.forward_attention(&rows, EPS, &attention).unwrap();
            let projection =
                TokenProjection::new(&qkv, &Stream::new(embeddings).unwrap(), EPS).unwrap();
            let looked_up = projection.forward_attention(&ids, &attention).unwrap();
            assert!(
                bits(&looked_up) == bits(&multiplied),
                "{hidden} in {dtype:?}"
            );
            assert!(host(&looked_up).iter().any(|x| *x != 0.0));

            let fewer = ids.narrow(0, 0, total - 1).unwrap();
            assert!(projection.forward_attention(&fewer, &attention).is_err());
            let wider = VarlenAttention {
                num_heads: num_heads.div_ceil(2),
                ..attention
            };
            let refused = projection.forward_attention(&ids, &wider).is_err();
            assert_eq!(refused, num_heads > 1);

            // In one sequence, none of whose tokens can then be anything.
            let mut unknown = ids.to_vec1::<u32>().unwrap();
            unknown[lengths.ranges().nth(1).unwrap().start] = vocabulary;
            let unknown = Tensor::from_vec(unknown, total, &gpu).unwrap();
            let attended = host(&projection.forward_attention(&unknown, &attention).unwrap());
            for (sequence, range) in lengths.ranges().enumerate() {
                let of_sequence = range.start * hidden..range.end * hidden;
                if sequence == 1 {
                    assert!(attended[of_sequence].iter().all(|x| x.is_nan()));
                } else {
                    let expected = &host(&multiplied)[of_sequence.clone()];
                    assert_eq!(attended[of_sequence], *expected);
                }
            }
        }
    }
}

pub(crate) fn streams_that_are_not_finite_stay_so() {
    let gpu = gpu();
    for dtype in [DType::F16, DType::BF16] {
        for not_finite in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let (rows, hidden) = (70, 320);
            let mut numbers = random(rows * hidden, 1);
            numbers[66 * hidden + 300] = not_finite;
            let stream = Tensor::from_vec(numbers, (rows, hidden), &Device::Cpu)
                .and_then(|stream| stream.to_dtype(dtype)?.to_device(&gpu))
                .unwrap();
            let onto = Both::new((hidden, hidden), 3, false, &stream);
            let fc1 = Both::new((64, hidden), 5, true, &stream);
            let inner = operand(&[rows, hidden], 2, dtype, &gpu).1;
            let before = Stream::new(stream).unwrap();
            let after = onto.own.forward_onto(before.rows(), &inner).unwrap();
            for x in [&before, &after] {
                let y = host(&fc1.own.forward_gelu(x, EPS).unwrap());
                for (row, numbers) in y.chunks(64).enumerate() {
                    let all = |is: fn(&f32) -> bool| numbers.iter().all(is);
                    assert!(if row == 66 {
                        all(|number| !number.is_finite())
                    } else {
                        all(|number| number.is_finite())
                    });
                }
            }
            let is_finite: Vec<bool> = host(after.rows()).iter().map(|x| x.is_finite()).collect();
            let finite = is_finite.iter().filter(|is| **is).count();
            assert!(finite == rows * hidden - 1 && !is_finite[66 * hidden + 300]);
        }
    }
}

pub(crate) fn streams_that_do_not_fit_are_refused() {
    let gpu = gpu();
    let (rows, hidden, num_heads) = (1002, 128, 2);
    let tensor = |dims: &[usize], dtype| Tensor::zeros(dims, dtype, &gpu).unwrap();
    let bias = |outputs: usize| tensor(&[outputs], DType::F32);
    let linear = |outputs: usize, inputs: usize, dtype| {
        StreamLinear::new(tensor(&[outputs, inputs], dtype), bias(outputs))
    };
    let stream = |rows, width, dtype| Stream::new(tensor(&[rows, width], dtype));

    assert!(linear(96, hidden, DType::BF16).is_err());
    assert!(linear(hidden, 100, DType::BF16).is_err());
    assert!(linear(hidden, hidden, DType::F32).is_err());
    let weight = tensor(&[hidden, hidden], DType::BF16);
    assert!(StreamLinear::new(weight.clone(), bias(64)).is_err());
    assert!(StreamLinear::new(weight, tensor(&[hidden], DType::BF16)).is_err());
    assert!(stream(rows, hidden, DType::F32).is_err());

    let x = stream(rows, hidden, DType::BF16).unwrap();
    let onto = linear(hidden, 2 * hidden, DType::BF16).unwrap();
    let fc1 = linear(256, hidden, DType::BF16).unwrap();
    let inner = |rows, width, dtype| tensor(&[rows, width], dtype);
    assert!(
        onto.forward_onto(x.rows(), &inner(rows, 2 * hidden, DType::BF16))
            .is_ok()
    );
    assert!(
        onto.forward_onto(x.rows(), &inner(rows, 2 * hidden, DType::F16))
            .is_err()
    );
    assert!(
        onto.forward_onto(x.rows(), &inner(rows, hidden, DType::BF16))
            .is_err()
    );
    assert!(
        onto.forward_onto(x.rows(), &inner(rows - 1, 2 * hidden, DType::BF16))
            .is_err()
    );
    assert!(fc1.forward_gelu(&x, EPS).is_ok());
    assert!(
        fc1.forward_gelu(&stream(rows, hidden, DType::F16).unwrap(), EPS)
            .is_err()
    );
    assert!(
        fc1.forward_gelu(&stream(rows, 64, DType::BF16).unwrap(), EPS)
            .is_err()
    );

    // Fewer positions than the longest sequence has tokens, and the table of another head_dim.
    let qkv = linear(3 * hidden, hidden, DType::BF16).unwrap();
    let attend = |lengths: &CuSeqlens, head_dim, positions| {
        let rotary = Rotary::new(head_dim, positions, &gpu).unwrap();
        let attention = VarlenAttention {
            cu_seqlens: lengths,
            rotary: &rotary,
            num_heads,
            contacts: None,
        };
        qkv.forward_attention(&x, EPS, &attention).map(|_| ())
    };
    let lengths = cu_seqlens(&[rows]);
    assert!(attend(&lengths, hidden / num_heads, 2048).is_ok());
    // What is on the same GPU, opened another time, may not be there yet, or not any more.
    let elsewhere = crate::gpu();
    let rotary = |device| Rotary::new(hidden / num_heads, 2048, device).unwrap();
    let (here, there) = (rotary(&gpu), rotary(&elsewhere));
    let attention = |rotary| VarlenAttention {
        cu_seqlens: &lengths,
        rotary,
        num_heads,
        contacts: None,
    };
    assert!(qkv.forward_attention(&x, EPS, &attention(&there)).is_err());
    let projection = TokenProjection::new(&qkv, &x, EPS).unwrap();
    let look_up = |ids: &Device, rotary| {
        let ids = Tensor::zeros(rows, DType::U32, ids).unwrap();
        projection
            .forward_attention(&ids, &attention(rotary))
            .map(|_| ())
    };
    assert!(look_up(&gpu, &here).is_ok());
    assert!(look_up(&gpu, &there).is_err());
    assert!(look_up(&elsewhere, &here).is_err());
    assert!(attend(&lengths, hidden / num_heads, rows - 1).is_err());
    assert!(attend(&lengths, 16, 2048).is_err());
    assert!(attend(&cu_seqlens(&[rows - 1]), hidden / num_heads, 2048).is_err());
}
