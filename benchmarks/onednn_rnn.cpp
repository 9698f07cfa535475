// oneDNN's RNN primitive (one tanh layer, float32) as a library for ctypes; see peers.py.
// Built by peers.py where oneDNN is installed.
#include <cstring>
#include <unordered_map>

#include "oneapi/dnnl/dnnl.hpp"

using namespace dnnl;
using Format = memory::format_tag;
using Arguments = std::unordered_map<int, memory>;

struct Layer {
  engine cpu{engine::kind::cpu, 0};
  stream queue{cpu};
  vanilla_rnn_forward forward;
  vanilla_rnn_backward backward;
  Arguments given, back;
};

static memory::desc described(memory::dims dims, Format format) {
  return {dims, memory::data_type::f32, format};
}

// Returns `values`, laid out by `from`, as oneDNN wants them.
static memory laid_out(Layer &layer, float *values, const memory::desc &from, const memory::desc &to) {
  memory source(from, layer.cpu, values), target(to, layer.cpu);
  reorder(source, target).execute(layer.queue, source, target);
  layer.queue.wait();
  return target;
}

// x (T, B, I), U (I, H) and W (H, H) as oneDNN has them, that is, transposed; b (H); grad (T, B, H).
extern "C" Layer *make(int T, int B, int I, int H, float *x, float *U, float *W, float *b, float *grad) {
  auto *layer = new Layer;
  auto input = described({T, B, I}, Format::tnc), output = described({T, B, H}, Format::tnc);
  auto bias = described({1, 1, 1, H}, Format::ldgo), start = described({1, 1, B, H}, Format::ldnc), none = memory::desc();
  auto best_U = described({1, 1, I, 1, H}, Format::any), best_W = described({1, 1, H, 1, H}, Format::any);
  auto direction = rnn_direction::unidirectional_left2right;
  vanilla_rnn_forward::primitive_desc forward(layer->cpu, prop_kind::forward_training, algorithm::eltwise_tanh,
                                              direction, input, start, best_U, best_W, bias, output, none);
  vanilla_rnn_backward::primitive_desc backward(layer->cpu, prop_kind::backward, algorithm::eltwise_tanh, direction,
                                                input, start, best_U, best_W, bias, output, none, input, start, best_U,
                                                best_W, bias, output, none, forward);
  auto plain_U = described({1, 1, I, 1, H}, Format::ldigo), plain_W = described({1, 1, H, 1, H}, Format::ldigo);
  layer->given = {{DNNL_ARG_SRC_LAYER, laid_out(*layer, x, input, input)},
                  {DNNL_ARG_WEIGHTS_LAYER, laid_out(*layer, U, plain_U, forward.weights_layer_desc())},
                  {DNNL_ARG_WEIGHTS_ITER, laid_out(*layer, W, plain_W, forward.weights_iter_desc())},
                  {DNNL_ARG_BIAS, laid_out(*layer, b, bias, bias)},
                  {DNNL_ARG_SRC_ITER, memory(start, layer->cpu)},
                  {DNNL_ARG_DST_LAYER, memory(output, layer->cpu)},
                  {DNNL_ARG_WORKSPACE, memory(forward.workspace_desc(), layer->cpu)}};
  // Left out, it is not taken as zero by the gradient of W.
  std::memset(layer->given[DNNL_ARG_SRC_ITER].get_data_handle(), 0, start.get_size());
  layer->back = layer->given;
  layer->back[DNNL_ARG_WEIGHTS_LAYER] = laid_out(*layer, U, plain_U, backward.weights_layer_desc());
  layer->back[DNNL_ARG_WEIGHTS_ITER] = laid_out(*layer, W, plain_W, backward.weights_iter_desc());
  layer->back[DNNL_ARG_DIFF_DST_LAYER] = laid_out(*layer, grad, output, output);
  layer->back[DNNL_ARG_DIFF_SRC_LAYER] = memory(input, layer->cpu);
  layer->back[DNNL_ARG_DIFF_SRC_ITER] = memory(start, layer->cpu);
  layer->back[DNNL_ARG_DIFF_WEIGHTS_LAYER] = memory(backward.diff_weights_layer_desc(), layer->cpu);
  layer->back[DNNL_ARG_DIFF_WEIGHTS_ITER] = memory(backward.diff_weights_iter_desc(), layer->cpu);
  layer->back[DNNL_ARG_DIFF_BIAS] = memory(bias, layer->cpu);
  layer->forward = vanilla_rnn_forward(forward);
  layer->backward = vanilla_rnn_backward(backward);
  return layer;
}

extern "C" void train(Layer *layer) {
  for (int sum : {DNNL_ARG_DIFF_WEIGHTS_LAYER, DNNL_ARG_DIFF_WEIGHTS_ITER, DNNL_ARG_DIFF_BIAS}) {
    memory &values = layer->back[sum];  // oneDNN adds to these
    std::memset(values.get_data_handle(), 0, values.get_desc().get_size());
  }
  layer->forward.execute(layer->queue, layer->given);
  layer->backward.execute(layer->queue, layer->back);
  layer->queue.wait();
}

extern "C" void fetch(Layer *layer, int T, int B, int I, int H, float *h, float *x, float *U, float *W, float *b) {
  auto copy = [&](int which, float *to, const memory::desc &as) {
    memory source = layer->back[which], target(as, layer->cpu, to);
    reorder(source, target).execute(layer->queue, source, target);
    layer->queue.wait();
  };
  copy(DNNL_ARG_DST_LAYER, h, described({T, B, H}, Format::tnc));
  copy(DNNL_ARG_DIFF_SRC_LAYER, x, described({T, B, I}, Format::tnc));
  copy(DNNL_ARG_DIFF_WEIGHTS_LAYER, U, described({1, 1, I, 1, H}, Format::ldigo));
  copy(DNNL_ARG_DIFF_WEIGHTS_ITER, W, described({1, 1, H, 1, H}, Format::ldigo));
  copy(DNNL_ARG_DIFF_BIAS, b, described({1, 1, 1, H}, Format::ldgo));
}

extern "C" void discard(Layer *layer) { delete layer; }
