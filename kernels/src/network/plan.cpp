// A workspace before its first run: the size of every image, and a place in memory for as long as something reads it.
#include <algorithm>
#include <cstdlib>
#include <new>

#include "network.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace tpdm {
namespace {

// When an array is first and last used, never if negative, how many floats it has, and where they lie.
struct Use {
  int first = -1, last = -1;
  long size = 0, at = 0;
};

// Find each array a place that no other one has at the same time: first fit, in the order in which they appear. Return how many
// floats that takes.
long place(std::vector<Use>& uses) {
  std::vector<Use*> order, placed;
  for (Use& u : uses)
    if (u.first >= 0) order.push_back(&u);
  std::stable_sort(order.begin(), order.end(), [](const Use* a, const Use* b) { return a->first < b->first; });
  long total = 0;
  for (Use* u : order) {
    // `placed` is kept in the order of places.
    for (const Use* p : placed) {
      if (p->first > u->last || u->first > p->last) continue;
      if (u->at + u->size <= p->at) break;
      u->at = std::max(u->at, p->at + p->size);
    }
    placed.insert(std::upper_bound(placed.begin(), placed.end(), u, [](const Use* a, const Use* b) { return a->at < b->at; }), u);
    total = std::max(total, u->at + u->size);
  }
  return total;
}

}  // namespace

Memory::Memory(long floats) {
  constexpr size_t kHuge = size_t{1} << 21;
  size_t bytes = std::max<size_t>(static_cast<size_t>(floats) * sizeof(float), 64);
  const size_t alignment = bytes >= kHuge ? kHuge : 4096;
  bytes = (bytes + alignment - 1) / alignment * alignment;
  void* p = std::aligned_alloc(alignment, bytes);
  if (!p) throw std::bad_alloc();
#ifdef __linux__
  // Fewer address translations; a kernel without huge pages ignores it.
  if (bytes >= kHuge) madvise(p, bytes, MADV_HUGEPAGE);
#endif
  data_.reset(static_cast<float*>(p));
}

void Memory::Free::operator()(float* p) const { std::free(p); }

Workspace::Workspace(std::shared_ptr<const Network> network, int n_images, ImageSize size, bool with_pullback,
                     bool with_memory)
    : network_(std::move(network)), most_(n_images), with_pullback_(with_pullback) {
  if (n_images < 1) refuse("n_images: expected at least 1, got " + std::to_string(n_images));
  if (network_->output_ < 0) refuse("network: expected one whose layers are all there");
  if (size.height < 1 || size.width < 1) refuse("size: expected at least one pixel");
  sizes_.assign(network_->channels_.size(), {0, 0});
  sizes_[0] = size;
  plan_sizes();
  plan_arena();
  plan_scratch();
  if (!with_memory) return;
  arena_ = Memory(arena_floats_);
  scratch_ = Memory(scratch_floats_);
  for (int n : network_->vector_sizes_) vectors_.emplace_back(n);
  for (const Layer& l : network_->images_) {
    biases_.push_back(l.kind == Kind::conv ? l.bias : std::vector<float>());
    if (l.kind == Kind::norm) {
      mean_.emplace_back(l.weight.size() * n_images);
      rstd_.emplace_back(l.weight.size() * n_images);
    }
  }
}

long Workspace::floats_of(int image) const {
  return sizes_[image].pixels() * padded(network_->channels_[image]);
}

long Workspace::bytes() const { return (arena_floats_ + scratch_floats_) * static_cast<long>(sizeof(float)); }

void Workspace::plan_sizes() {
  for (const Layer& l : network_->images_) {
    const ImageSize in = sizes_[l.in[0]];
    ImageSize out = in;
    switch (l.kind) {
      case Kind::conv:
        if (std::min(in.height, in.width) + 2 * l.pad < l.kernel) refuse("size: expected larger images");
        out = {(in.height + 2 * l.pad - l.kernel) / l.stride + 1, (in.width + 2 * l.pad - l.kernel) / l.stride + 1};
        break;
      case Kind::down:
        if (in.height % 2 || in.width % 2) refuse("size: expected sides that can be halved as often as the network does");
        out = {in.height / 2, in.width / 2};
        break;
      case Kind::up: out = {2 * in.height, 2 * in.width}; break;
      case Kind::fir: out = {in.height + 2 * l.pad - 3, in.width + 2 * l.pad - 3}; break;
      case Kind::stuff: out = {2 * in.height - 1, 2 * in.width - 1}; break;
      default: break;
    }
    if (out.height < 1 || out.width < 1) refuse("size: expected larger images");
    if (l.kind == Kind::attend && (in.pixels() + kLanes - 1) / kLanes > kMostSegments)
      refuse("size: expected at most 16384 pixels where the network attends");
    for (size_t i = 1; i < l.in.size(); ++i) {
      const ImageSize expected = l.kind == Kind::conv ? out : in, got = sizes_[l.in[i]];
      if (got.height != expected.height || got.width != expected.width)
        refuse("size: expected sides that can be halved as often as the network does");
    }
    sizes_[l.out] = out;
  }
  const ImageSize out = sizes_[network_->output_];
  if (out.height != sizes_[0].height || out.width != sizes_[0].width)
    refuse("size: expected sides that can be halved as often as the network does");
}

// Every value and gradient gets a place in the arena for as long as something still reads it: time counts layers forward, then
// backward.
void Workspace::plan_arena() {
  const Network& net = *network_;
  const int n_images = static_cast<int>(net.channels_.size()), n = static_cast<int>(net.images_.size());
  std::vector<Use> uses(2 * n_images);  // of an image's value and of its gradient, one after the other
  const auto use = [&uses](int image, bool is_gradient, int time) {
    Use& u = uses[2 * image + is_gradient];
    u.first = u.first < 0 ? time : std::min(u.first, time);
    u.last = std::max(u.last, time);
  };
  use(0, false, 0);
  for (int i = 0; i < n; ++i) {
    const Layer& l = net.images_[i];
    for (int image : l.in) use(image, false, i + 1);
    use(l.out, false, i + 1);
    if (!with_pullback_) continue;
    const int back = 2 * n + 1 - i;
    if (l.kind == Kind::norm || l.kind == Kind::attend)
      for (int image : l.in) use(image, false, back);
    for (int image : l.in) use(image, true, back);
    use(l.out, true, back);
  }
  use(net.output_, false, n + 1);
  if (with_pullback_) {
    use(net.output_, true, n + 1);
    use(0, true, 2 * n + 2);
  }
  std::vector<char> has(n_images, 0);
  adds_.resize(n);
  for (int i = n - 1; with_pullback_ && i >= 0; --i)
    for (int image : net.images_[i].in) {
      adds_[i].push_back(has[image]);
      has[image] = 1;
    }

  // A few lines more than the data: streams that are a multiple of a page apart would wait for each other.
  for (int i = 0; i < 2 * n_images; ++i) uses[i].size = most_ * floats_of(i / 2) + 17 * kLanes;
  arena_floats_ = place(uses);
  value_at_.resize(n_images);
  gradient_at_.resize(n_images);
  for (int image = 0; image < n_images; ++image) {
    value_at_[image] = uses[2 * image].at;
    gradient_at_[image] = uses[2 * image + 1].at;
  }
}

// The layers take turns with one scratch, as large as the most demanding of them asks for.
void Workspace::plan_scratch() {
  const Network& net = *network_;
  for (const Layer& l : net.images_) {
    const ImageSize in = sizes_[l.in[0]], out = sizes_[l.out];
    const int n_in = net.channels_[l.in[0]], n_out = net.channels_[l.out];
    switch (l.kind) {
      case Kind::conv:
        if (net.is_winograd(l)) {
          const long transformed = l.products.empty() ? static_cast<long>(l.taps.size()) * 4 : 0;
          need_scratch(transformed + net.layers_->winograd_scratch({n_in, n_out, nullptr}, most_, in));
          if (with_pullback_) need_scratch(transformed + net.layers_->winograd_scratch({n_out, n_in, nullptr}, most_, in));
        } else {
          need_scratch(net.layers_->direct_scratch({n_in, n_out, l.kernel, l.stride, 1, l.pad, l.pad, nullptr}, in, out));
          const int rest = l.kernel - 1 - l.pad;
          if (with_pullback_)
            need_scratch(net.layers_->direct_scratch({n_out, n_in, l.kernel, 1, l.stride, rest, rest, nullptr}, out, in));
        }
        break;
      case Kind::norm: need_scratch(with_pullback_ ? floats_of(l.in[0]) : 0); break;
      case Kind::attend:
        need_scratch(net.layers_->attend_scratch({n_in, l.mul}, in, with_pullback_));
        break;
      default: need_scratch(2L * std::max(in.width, out.width) * kLanes);
    }
  }
}

}  // namespace tpdm
