// The one loop over time: a program for every step, and its gradient's backward. The twin of the loop
// in kernel/plain_loop.py.
#pragma once

#include "gathered.hpp"

namespace BPTT_ISA {

template <class F> static Outcome loop_forward(const Program &program, const Sequence &s, Share share, int I, const Run<F> &run) {
  Steps<F> steps(program, s, share, run);
  Input<F> input(s, share, I, program.p, run);
  if (!steps.ready() || !input.ready()) return NO_MEMORY;
  for (int64_t i = 0; i < s.T; i++) {
    int64_t t = s.nth(i);
    input.project(i);
    stretches(s, share, t, [&](int64_t from, int64_t to, int64_t before) {
      steps.find(i, from, to, before, input.row(s.start_of(t) + from));
      steps.compute(to - from);
    });
  }
  return steps.outcome;
}

template <class F>
static Outcome loop_backward(const Program &program, const Sequence &s, Share share, int I, const Run<F> &run,
                          const RunGradients<F> &grad) {
  const int64_t most = share.rows();
  Steps<F> steps(program, s, share, run, grad.above);
  Gathered<F> gathered(program, most, run.weights, grad.weights);
  if (!steps.ready() || !gathered.ready()) return NO_MEMORY;
  InputGradients<F> of_input(I, run, grad, gathered.of_p());
  Arrivals<F> arrivals(steps, grad.arrived);
  if (!of_input.ready() || !arrivals.ready() || (grad.of_omega && !gathered.reads_omega())) return NO_MEMORY;
  for (int a : program.in(SUM)) steps.frame.at[a] = grad.weights[program.arrays[a].index];
  double omega = 0;
  auto use = [&] {
    of_input.add(gathered.of_p());
    gathered.add_up();
  };
  for (int64_t i = s.T - 1; i >= 0; i--) {
    int64_t t = s.nth(i), rows = s.end_of(share, t) - share.first;
    if (rows == 0) continue;
    if (!gathered.has_room_for(rows)) use();
    stretches(s, share, t, [&](int64_t from, int64_t to, int64_t before) {
      steps.find(i, from, to, before, nullptr);
      gathered.find(steps.frame, from - share.first);
      arrivals.find(i, from);
      steps.compute(to - from);
    });
    gathered.begin(steps, i);
    if (grad.of_omega) omega += gathered.read_omega(steps, i, grad.arrived[0], grad.omega, grad.is_relu);
    arrivals.push(i);
    if (grad.p) gathered.write_p(grad.p, s.start_of(t) + share.first, rows);
  }
  use();
  of_input.finish();
  gathered.finish();
  if (grad.of_omega) *grad.of_omega = F(omega);
  return steps.outcome;
}

}  // namespace BPTT_ISA
