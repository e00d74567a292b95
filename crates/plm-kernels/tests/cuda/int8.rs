//! Products of 8-bit integers.

use candle_core::{DType, Device, Tensor};
use plm_kernels::{CuSeqlens, Int8Linear, Int8Rows, Rotary, VarlenAttention, bias_gelu_inplace};

use crate::common::{cu_seqlens, random, values};
use crate::{
    TOKENS, assert_alike, assert_no_outlier, attention, gpu, host, operand, scaled_operand,
};

/// The rows of `x` as integers of up to `levels` by their largest magnitude, and what these are
/// multiples of.
fn integers(x: &Tensor, levels: f32) -> (Vec<f32>, Vec<f32>) {
    let (_, width) = x.dims2().unwrap();
    let mut numbers = values(x);
    let scales = numbers
        .chunks_mut(width)
        .map(|row| {
            let most = row.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
            let inverse = levels / most;
            row.iter_mut()
                .for_each(|x| *x = (*x * inverse).round_ties_even());
            most / levels
        })
        .collect();
    (numbers, scales)
}

/// The numbers that they stand for.
fn as_integers(x: &Tensor, levels: f32) -> Tensor {
    let (integers, scales) = integers(x, levels);
    let scales = Tensor::from_vec(scales, (x.dims()[0], 1), &Device::Cpu).unwrap();
    Tensor::from_vec(integers, x.dims(), &Device::Cpu)
        .and_then(|integers| integers.broadcast_mul(&scales))
        .unwrap()
}

/// On the GPU, of a weight and a bias on the CPU.
fn int8_linear(weight: &Tensor, bias: &Tensor, rows: Int8Rows, gpu: &Device) -> Int8Linear {
    let (integers, scales) = integers(weight, 127.0);
    let bytes: Vec<u8> = integers
        .iter()
        .map(|x| (*x as i8).cast_unsigned())
        .collect();
    Int8Linear::new(
        Tensor::from_vec(bytes, weight.dims(), gpu).unwrap(),
        Tensor::from_vec(scales, weight.dims()[0], gpu).unwrap(),
        bias.to_device(gpu).unwrap(),
        rows,
    )
    .unwrap()
}

/// Products of 8-bit integers and what follows them. The integers are those of the CPU, so that
/// only the last rounding differs.
pub(crate) fn products_of_8_bit_integers_are_those_of_the_cpu() {
    const EPS: f32 = 1e-5;
    let gpu = gpu();
    let lengths = cu_seqlens(&TOKENS);
    let total = lengths.total_tokens();
    let shapes = [
        (64, 4),
        (128, 8),
        (640, 20),
        (1088, 17),
        (1280, 20),
        (2560, 40),
    ];
    for (hidden, num_heads) in shapes {
        let dtype = DType::BF16;
        let scale = (hidden as f32).powf(-0.5);
        let weights = |outputs: usize, inputs: usize, seed| {
            let weight = scaled_operand(scale, &[outputs, inputs], seed, DType::F32, &gpu).0;
            let bias = operand(&[outputs], seed + 1, DType::F32, &gpu).0;
            (weight, bias)
        };
        let times = |x: &Tensor, weight: &Tensor| x.matmul(&weight.t().unwrap()).unwrap();
        let check = |what: &str, run: &dyn Fn(&Tensor) -> Tensor, x: &Tensor, cpu: &Tensor| {
            let own = run(x);
            let what = format!("{what} of {hidden} in 8 bits");
            assert_alike(&what, &own, cpu, dtype);
            assert_no_outlier(&what, &own, cpu, dtype);
            own
        };
        let check_rows = |run: &dyn Fn(&Tensor, usize) -> Tensor, x: &Tensor, own: &Tensor| {
            for (start, rows) in [(0, 1), (5, 17), (100, 128), (7, 511), (total - 1, 1)] {
                let part = run(&x.narrow(0, start, rows).unwrap(), start);
                let packed = own.narrow(0, start, rows).unwrap();
                assert!(host(&part) == host(&packed), "{hidden}: {rows} rows");
            }
        };
        let x = operand(&[total, hidden], 1, dtype, &gpu);
        let residual = operand(&[total, hidden], 2, dtype, &gpu);
        let integers = as_integers(&x.0, 127.0);
        let mean_squares = x.0.sqr().unwrap().mean_keepdim(1).unwrap();
        let deviations = (mean_squares + f64::from(EPS)).unwrap().sqrt().unwrap();
        let normalised = integers.broadcast_div(&deviations).unwrap();

        let (weight, bias) = weights(hidden, hidden, 3);
        let product = times(&integers, &as_integers(&weight, 127.0));
        let cpu = (&residual.0 + product.broadcast_add(&bias).unwrap()).unwrap();
        let linear = int8_linear(&weight, &bias, Int8Rows::Symmetric, &gpu);
        let run = |x: &Tensor, start: usize| {
            let rows = x.dims()[0];
            let residual = residual.1.narrow(0, start, rows).unwrap();
            linear.forward_onto(&residual, x).unwrap()
        };
        let own = check("product onto the stream", &|x| run(x, 0), &x.1, &cpu);
        check_rows(&run, &x.1, &own);

        let (weight, bias) = weights(4 * hidden, hidden, 5);
        let factors = operand(&[4 * hidden], 7, dtype, &gpu);
        let factors = (
            (factors.0.abs().unwrap() + 0.5)
                .unwrap()
                .to_dtype(dtype)
                .unwrap(),
            (factors.1.to_dtype(DType::F32).unwrap().abs().unwrap() + 0.5)
                .unwrap()
                .to_dtype(dtype)
                .unwrap(),
        );
        let exact_factors = factors.0.to_dtype(DType::F32).unwrap();
        let inner = times(&normalised, &as_integers(&weight, 127.0));
        bias_gelu_inplace(&inner, &bias).unwrap();
        let inner = (inner + 0.17)
            .unwrap()
            .broadcast_mul(&exact_factors)
            .unwrap();
        let linear = int8_linear(&weight, &bias, Int8Rows::Normalised { eps: EPS }, &gpu);
        let run = |x: &Tensor, _| linear.forward_positive_gelu(x, &factors.1).unwrap();
        let own = check("product and positive GELU", &|x| run(x, 0), &x.1, &inner);
        check_rows(&run, &x.1, &own);
        assert!(host(&own).iter().all(|&x| x >= 0.0));

        let (weight, bias) = weights(hidden, 4 * hidden, 8);
        let inputs = own
            .to_device(&Device::Cpu)
            .unwrap()
            .to_dtype(DType::F32)
            .unwrap();
        let product = times(&as_integers(&inputs, 255.0), &as_integers(&weight, 127.0));
        let product = product.broadcast_add(&bias).unwrap();
        let cpu = (&residual.0 + product).unwrap();
        let linear = int8_linear(&weight, &bias, Int8Rows::Positive, &gpu);
        let run = |x: &Tensor, start: usize| {
            let rows = x.dims()[0];
            let residual = residual.1.narrow(0, start, rows).unwrap();
            linear.forward_onto(&residual, x).unwrap()
        };
        let onto = check("product of positive rows", &|x| run(x, 0), &own, &cpu);
        check_rows(&run, &own, &onto);

        let (weight, bias) = weights(3 * hidden, hidden, 10);
        let projected = times(&normalised, &as_integers(&weight, 127.0));
        let cpu = attention(&lengths, (hidden, num_heads), &projected, &bias);
        let linear = int8_linear(&weight, &bias, Int8Rows::Normalised { eps: EPS }, &gpu);
        let rotary = Rotary::new(hidden / num_heads, 2048, &gpu).unwrap();
        let attend = |lengths: &CuSeqlens, x: &Tensor| {
            let attention = VarlenAttention {
                cu_seqlens: lengths,
                rotary: &rotary,
                num_heads,
                contacts: None,
            };
            linear.forward_attention(x, &attention).unwrap()
        };
        let own = check(
            "product and attention",
            &|x| attend(&lengths, x),
            &x.1,
            &cpu,
        );
        for range in lengths.ranges() {
            let part = x.1.narrow(0, range.start, range.len()).unwrap();
            let alone = attend(&cu_seqlens(&[range.len()]), &part);
            let packed = own.narrow(0, range.start, range.len()).unwrap();
            assert!(
                host(&alone) == host(&packed),
                "{hidden}: {} tokens",
                range.len()
            );
        }
    }
    // The widest rows that there are kernels for: those of 15B's last product.
    let x = operand(&[3, 20_480], 1, DType::BF16, &gpu);
    let positive = (x.0.abs().unwrap(), x.1.abs().unwrap());
    let residual = operand(&[3, 64], 2, DType::BF16, &gpu);
    let weight = scaled_operand(0.01, &[64, 20_480], 3, DType::F32, &gpu).0;
    let bias = operand(&[64], 4, DType::F32, &gpu).0;
    for (rows, x, levels) in [
        (Int8Rows::Symmetric, &x, 127.0),
        (Int8Rows::Positive, &positive, 255.0),
    ] {
        let weights = as_integers(&weight, 127.0).t().unwrap();
        let product = as_integers(&x.0, levels).matmul(&weights).unwrap();
        let cpu = (&residual.0 + product.broadcast_add(&bias).unwrap()).unwrap();
        let linear = int8_linear(&weight, &bias, rows, &gpu);
        let own = linear.forward_onto(&residual.1, &x.1).unwrap();
        assert_alike("a product of wide rows", &own, &cpu, DType::BF16);
    }
    let of = |dims, dtype| Tensor::zeros(dims, dtype, &gpu).unwrap();
    let narrow = Int8Linear::new(
        of(vec![96, 64], DType::U8),
        of(vec![96], DType::F32),
        of(vec![96], DType::F32),
        Int8Rows::Symmetric,
    );
    assert!(narrow.is_err());
}

/// What is not a number, or beyond all, does not become one.
pub(crate) fn rows_that_are_not_finite_stay_so() {
    let gpu = gpu();
    let weight = operand(&[64, 64], 1, DType::F32, &gpu).0;
    let bias = operand(&[64], 2, DType::F32, &gpu).0;
    for rows in [
        Int8Rows::Symmetric,
        Int8Rows::Normalised { eps: 1e-5 },
        Int8Rows::Positive,
    ] {
        let linear = int8_linear(&weight, &bias, rows, &gpu);
        for not_finite in [f32::NAN, f32::INFINITY] {
            let mut x = random(3 * 64, 3);
            x[64 + 40] = not_finite;
            let x = Tensor::from_vec(x, (3, 64), &Device::Cpu)
                .and_then(|x| x.to_dtype(DType::BF16)?.to_device(&gpu))
                .unwrap();
            let y = host(&linear.forward_onto(&x, &x).unwrap());
            let finite: Vec<bool> = y
                .chunks(64)
                .map(|row| row.iter().any(|value| value.is_finite()))
                .collect();
            assert_eq!(finite, [true, false, true], "{rows:?}, {not_finite}");
        }
    }
}
