"""Parameter counts of the papers, and outputs of the same layers built of plain torch modules."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hnbayes.mnets import MLP, WRN, BioConvNet, ChunkSqueezer, LeNet, ResNet, ResNetIN, SimpleRNN, ZenkeNet
from tests.mnets.nets import random_weights

F = nn.functional


def tensor(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_parameter_counts_of_the_papers():
    kwargs = {"no_weights": True, "verbose": False}
    # He et al. (2016), table 6: 0.46M for 32 layers, 0.27M for 20.
    assert ResNet(n=5, use_bias=False, **kwargs).num_params == pytest.approx(0.46e6, abs=0.005e6)
    assert ResNet(n=3, use_bias=False, **kwargs).num_params == pytest.approx(0.27e6, abs=0.005e6)
    # Zagoruyko and Komodakis (2016), table 4: 36.5M for WRN-28-10, 8.9M for WRN-16-8.
    assert WRN(use_bias=False, use_fc_bias=True, **kwargs).num_params == pytest.approx(36.5e6, abs=0.05e6)
    assert WRN(n=2, k=8, use_bias=False, use_fc_bias=True, **kwargs).num_params == pytest.approx(11.0e6, abs=0.05e6)
    # torchvision's exact counts.
    images = {"use_bias": False, "use_fc_bias": True, "projection_shortcut": True, **kwargs}
    assert ResNetIN(**images).num_params == 11_689_512
    assert ResNetIN(blocks_per_group=(3, 4, 6, 3), **images).num_params == 21_797_672
    assert ResNetIN(blocks_per_group=(3, 4, 6, 3), bottleneck_blocks=True, **images).num_params == 25_557_032


def test_parameter_counts_by_hand():
    kwargs = {"no_weights": True, "verbose": False}
    small = 10 * 25 + 10 + 20 * 10 * 25 + 20 + 50 * 20 * 16 + 50 + 10 * 50 + 10
    large = 20 * 25 + 20 + 50 * 20 * 25 + 50 + 500 * 50 * 16 + 500 + 10 * 500 + 10
    cifar = 192 * 75 + 192 + 192 * 192 * 25 + 192 + 1000 * 192 * 25 + 1000 + 10 * 1000 + 10
    assert LeNet(arch="mnist_small", **kwargs).num_params == small == 21_840
    assert LeNet(arch="mnist_large", **kwargs).num_params == large == 431_080
    assert LeNet((32, 32, 3), arch="cifar", **kwargs).num_params == cifar == 5_747_394
    convs = 32 * 27 + 32 + 32 * 288 + 32 + 64 * 288 + 64 + 64 * 576 + 64
    assert ZenkeNet(**kwargs).num_params == convs + 512 * 64 * 36 + 512 + 10 * 512 + 10
    local = 196 * 64 * (75 + 1) + 25 * 128 * (1600 + 1) + 25 * 256 * (1152 + 1)
    assert BioConvNet(no_weights=True).num_params == local + 1024 * 6400 + 1024 + 10 * 1024 + 10
    assert MLP.weight_shapes(4, 3, [5]) == [[5, 4], [5], [3, 5], [3]]
    assert MLP.weight_shapes(4, 3, [], use_bias=False) == [[3, 4]]


def fill(module: nn.Module, weights) -> nn.Module:
    """Copy weights into a module's parameters, in their order."""
    parameters = list(module.double().parameters())
    assert [p.shape for p in parameters] == [w.shape for w in weights]
    with torch.no_grad():
        for p, w in zip(parameters, weights, strict=True):
            p.copy_(w)
    return module.eval()


def test_mlp_is_a_sequential_network():
    net = MLP(4, 3, (5, 6), nn.Tanh(), no_weights=True, verbose=False)
    weights = random_weights(net)
    plain = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    x = tensor(7, 4)
    torch.testing.assert_close(net(x, weights=weights), fill(plain, weights)(x))
    with_out = MLP(4, 3, (5, 6), nn.Tanh(), no_weights=True, out_fn=torch.sigmoid, verbose=False)
    y, h = with_out(x, weights=weights)
    torch.testing.assert_close(h, plain(x))
    torch.testing.assert_close(y, torch.sigmoid(plain(x)))
    assert not with_out.has_linear_out


def test_spectral_norm_divides_by_the_largest_singular_value():
    net = MLP(4, 3, (5,), nn.Tanh(), use_spectral_norm=True, no_weights=True, verbose=False)
    weights = random_weights(net)
    scaled = [w / torch.linalg.svdvals(w)[0] if w.ndim == 2 else w for w in weights]
    plain = fill(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), scaled)
    x = tensor(7, 4)
    torch.testing.assert_close(net(x, weights=weights), plain(x))


@pytest.mark.parametrize(
    ("arch", "size", "channels"), [("mnist_small", 28, 1), ("mnist_large", 28, 1), ("cifar", 32, 3)]
)
def test_lenet(arch, size, channels):
    net = LeNet((size, size, channels), 10, arch=arch, no_weights=True, verbose=False)
    weights = random_weights(net, scale=0.05)
    a, b, c = net.param_shapes[0][0], net.param_shapes[2][0], net.param_shapes[4][0]
    plain = nn.Sequential(
        nn.Conv2d(channels, a, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(a, b, 5), nn.MaxPool2d(2), nn.ReLU(),
        nn.Flatten(), nn.Linear(net.param_shapes[4][1], c), nn.ReLU(), nn.Linear(c, 10),
    )  # fmt: skip
    images = tensor(2, channels, size, size)
    expected = fill(plain, weights)(images)
    torch.testing.assert_close(net(images.permute(0, 2, 3, 1), weights=weights), expected)
    torch.testing.assert_close(net(images.permute(0, 2, 3, 1).flatten(1), weights=weights), expected)


def test_zenke():
    net = ZenkeNet((14, 14, 3), 5, no_weights=True, verbose=False).eval()
    weights = random_weights(net, scale=0.05)
    plain = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 4, 512), nn.ReLU(), nn.Linear(512, 5),
    )  # fmt: skip
    images = tensor(2, 3, 14, 14)
    torch.testing.assert_close(net(images.permute(0, 2, 3, 1), weights=weights), fill(plain, weights)(images))


def bio_conv_plain(weights, images):
    """Each output pixel by itself: its own filter on its own receptive field."""
    h = images
    for (w, b), (kernel, stride, padding) in zip(
        zip(weights[0:6:2], weights[1:6:2], strict=True), ((5, 2, 0), (5, 2, 0), (3, 1, 1)), strict=True
    ):
        fields = F.unfold(h, kernel, padding=padding, stride=stride)
        side = int(fields.shape[-1] ** 0.5)
        pixels = [fields[:, :, p] @ w[:, :, p].T + b[:, p] for p in range(side * side)]
        h = torch.stack(pixels, dim=-1).reshape(len(h), -1, side, side).tanh()
    h = (h.flatten(1) @ weights[6].T + weights[7]).tanh()
    return h @ weights[8].T + weights[9]


def test_bio_conv_net():
    net = BioConvNet((15, 15, 2), 4, no_weights=True)
    weights = random_weights(net, scale=0.05)
    images = tensor(2, 2, 15, 15)
    x = images.permute(0, 2, 3, 1).flatten(1)
    output, activations = net(x, weights=weights, collect_activations=True)
    torch.testing.assert_close(output, bio_conv_plain(weights, images))
    assert len(activations) == 5
    assert activations[-1] is output


class Block(nn.Module):
    """A residual block of plain torch modules; projection as torchvision's `downsample`."""

    def __init__(self, before, after, stride, bottleneck, project):
        super().__init__()
        out = 4 * after if bottleneck else after
        sizes = [(before, after, 1, 1), (after, after, 3, stride), (after, out, 1, 1)]
        sizes = sizes if bottleneck else [(before, after, 3, stride), (after, after, 3, 1)]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, k, s, padding=k // 2, bias=False) for a, b, k, s in sizes)
        self.bns = nn.ModuleList(nn.BatchNorm2d(b) for _, b, _, _ in sizes)
        self.projection = None
        if project and (stride != 1 or before != out):
            self.projection = nn.Sequential(nn.Conv2d(before, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x):
        h = x
        for i, (conv, bn) in enumerate(zip(self.convs, self.bns, strict=True)):
            h = bn(conv(h))
            h = h.relu() if i < len(self.convs) - 1 else h
        return (h + (x if self.projection is None else self.projection(x))).relu()


class TorchvisionResNet(nn.Module):
    """The layout of torchvision.models.resnet: stem, four layers, average pooling, fc."""

    def __init__(self, channels, blocks, bottleneck, classes):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, channels[0], 7, 2, 3, bias=False), nn.BatchNorm2d(channels[0])
        before, self.layers = channels[0], nn.ModuleList()
        for group, (after, count) in enumerate(zip(channels[1:], blocks, strict=True)):
            for i in range(count):
                self.layers.append(Block(before, after, 2 if group and not i else 1, bottleneck, True))
                before = 4 * after if bottleneck else after
        self.fc = nn.Linear(before, classes)

    def forward(self, x):
        h = F.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, 2, 1)
        for layer in self.layers:
            h = layer(h)
        return self.fc(h.mean((2, 3)))

    def weights(self):
        """The tensors in the order of `param_shapes`: batch norm, projections, convolutions, fc."""
        norms = [self.bn1, *(bn for layer in self.layers for bn in layer.bns)]
        projections = [layer.projection for layer in self.layers if layer.projection is not None]
        convs = [self.conv1, *(conv for layer in self.layers for conv in layer.convs)]
        scales = [t for bn in (*norms, *(p[1] for p in projections)) for t in (bn.weight, bn.bias)]
        kernels = [*(p[0].weight for p in projections), *(conv.weight for conv in convs)]
        return [*scales, *kernels, self.fc.weight, self.fc.bias]

    def norms(self):
        return [
            self.bn1,
            *(bn for layer in self.layers for bn in layer.bns),
            *(layer.projection[1] for layer in self.layers if layer.projection is not None),
        ]


@pytest.mark.parametrize("bottleneck", [False, True])
def test_resnet_for_imagenet_is_torchvisions(bottleneck):
    torch.manual_seed(0)
    channels, blocks = (4, 4, 5, 6, 7), (1, 2, 1, 2)
    plain = TorchvisionResNet(channels, blocks, bottleneck, 6).double()
    net = ResNetIN(
        (32, 32, 3), 6, False, True, channels, blocks, True, bottleneck, chw_input_format=True, verbose=False
    ).double()
    with torch.no_grad():
        for p in plain.parameters():
            p.add_(0.1 * torch.randn_like(p))
    net.overwrite_internal_params(plain.weights())
    images = tensor(4, 3, 32, 32)
    # Batch statistics, and the running statistics that follow from them.
    torch.testing.assert_close(net(images), plain(images))
    for ours, theirs in zip(net.batchnorm_layers, plain.norms(), strict=True):
        torch.testing.assert_close(ours.get_stats()[0], theirs.running_mean)
        torch.testing.assert_close(ours.get_stats()[1], theirs.running_var)
    torch.testing.assert_close(net.eval()(images), plain.eval()(images), rtol=1e-5, atol=1e-5)


def test_stride_of_a_bottleneck_can_be_the_papers():
    kwargs = {"num_feature_maps": (2, 2, 2, 2, 2), "bottleneck_blocks": True, "verbose": False, "no_weights": True}
    first = ResNetIN((32, 32, 3), 3, stride_first=True, projection_shortcut=True, use_batch_norm=False, **kwargs)
    second = ResNetIN((32, 32, 3), 3, projection_shortcut=True, use_batch_norm=False, **kwargs)
    weights = random_weights(first)
    x = tensor(1, 32, 32, 3)
    # With 3x3 kernels that are one in the middle alone, it makes no difference which convolution has the stride.
    assert (first(x, weights=weights) - second(x, weights=weights)).abs().max() > 1e-6
    for w in weights:
        if w.ndim == 4 and w.shape[-1] == 3:
            middle = w[:, :, 1, 1].clone()
            w.zero_()
            w[:, :, 1, 1] = middle
    torch.testing.assert_close(first(x, weights=weights), second(x, weights=weights))


@pytest.mark.parametrize("norm", [False, True])
def test_resnet_for_cifar(norm):
    net = ResNet((8, 8, 3), 5, num_feature_maps=(3, 3, 4, 6), n=2, use_batch_norm=norm, no_weights=True, verbose=False)
    weights = random_weights(net)
    rest = list(weights)
    norms = [(rest.pop(0), rest.pop(0)) for _ in range(13)] if norm else []
    convs = [(rest.pop(0), rest.pop(0)) for _ in range(13)]

    def conv(i, h, stride=1):
        h = F.conv2d(h, *convs[i], stride=stride, padding=1)
        if not norm:
            return h
        return F.batch_norm(h, torch.zeros(h.shape[1]).double(), torch.ones(h.shape[1]).double(), *norms[i])

    images = tensor(2, 3, 8, 8)
    h, i = conv(0, images).relu(), 1
    for group, channels in enumerate((3, 4, 6)):
        for block in range(2):
            stride = 2 if group and not block else 1
            inner = conv(i + 1, conv(i, h, stride).relu())
            shortcut = h[:, :, ::stride, ::stride]
            missing = channels - shortcut.shape[1]
            zeros = [torch.zeros_like(inner[:, :k]) for k in (missing // 2, missing - missing // 2)]
            h = (inner + torch.cat([zeros[0], shortcut, zeros[1]], 1)).relu()
            i += 2
    expected = h.mean((2, 3)) @ rest[0].T + rest[1]
    net.eval()
    torch.testing.assert_close(net(images.permute(0, 2, 3, 1), weights=weights), expected)


def test_wide_resnet():
    net = WRN((8, 8, 3), 5, 2, 2, (3, 2, 2, 3), no_weights=True, chw_input_format=True, verbose=False).eval()
    weights = random_weights(net)
    rest = list(weights)
    norms = [(rest.pop(0), rest.pop(0)) for _ in range(13)]
    projections = [rest.pop(0) for _ in range(3)]
    convs = [(rest.pop(0), rest.pop(0)) for _ in range(13)]

    def active(i, h):
        zeros, ones = torch.zeros(h.shape[1]).double(), torch.ones(h.shape[1]).double()
        return F.batch_norm(h, zeros, ones, *norms[i]).relu()

    images = tensor(2, 3, 8, 8)
    h, i = F.conv2d(images, *convs[0], padding=1), 0
    for group in range(3):
        for block in range(2):
            stride = 2 if group and not block else 1
            shortcut = h if block else F.conv2d(h, projections[group], stride=stride)
            inner = F.conv2d(active(i, h), *convs[i + 1], stride=stride, padding=1)
            h = F.conv2d(active(i + 1, inner), *convs[i + 2], padding=1) + shortcut
            i += 2
    expected = active(i, h).mean((2, 3)) @ rest[0].T + rest[1]
    torch.testing.assert_close(net(images, weights=weights), expected)


@pytest.mark.parametrize("dynamic", [None, [0, 1]])
def test_chunk_squeezer(dynamic):
    net = ChunkSqueezer(
        7, 3, 3, 2, 4, red_layers=(5,), net_layers=(6,), dynamic_biases=dynamic, no_weights=True, verbose=False
    )
    weights = random_weights(net)
    embeddings, *rest = weights
    extra = [rest.pop(0) for _ in dynamic or ()]
    x = tensor(4, 7)
    padded = torch.cat([x, torch.zeros(4, 2).double()], 1)
    squeezed = []
    for c in range(3):
        chunk = padded[:, 3 * c : 3 * c + 3]
        if dynamic is None:
            chunk = torch.cat([chunk, embeddings[c].expand(4, -1)], 1)
        h = chunk @ rest[0].T + rest[1] + (extra[0] @ embeddings[c] if dynamic else 0)
        squeezed.append(h.relu() @ rest[2].T + rest[3] + (extra[1] @ embeddings[c] if dynamic else 0))
    h = (torch.cat(squeezed, 1) @ rest[4].T + rest[5]).relu()
    torch.testing.assert_close(net(x, weights=weights), h @ rest[6].T + rest[7])


def test_lstm_is_torchs():
    net = SimpleRNN(4, (5, 6), (), (3,), use_lstm=True, no_weights=True, verbose=False)
    weights = random_weights(net)
    first, second = nn.LSTM(4, 5), nn.LSTM(5, 6)
    order = [0, 2, 1, 3]  # torch's: both matrices, then both biases
    fill(first, [weights[i] for i in order])
    fill(second, [weights[4 + i] for i in order])
    x = tensor(7, 2, 4)
    h1, _ = first(x)
    h2, _ = second(h1)
    output, hidden, inner = net(x, weights=weights, return_hidden=True, return_hidden_int=True)
    torch.testing.assert_close(output, h2 @ weights[8].T + weights[9])
    torch.testing.assert_close(hidden[0], h1)
    torch.testing.assert_close(hidden[1], h2)
    torch.testing.assert_close(inner[0][-1], first(x)[1][1][0])


def test_elman_is_torchs_recurrence_with_outputs():
    net = SimpleRNN(4, (5,), (6,), (3,), no_weights=True, verbose=False)
    weights = random_weights(net)
    recurrent = fill(nn.RNN(6, 5), [weights[i] for i in (2, 4, 3, 5)])
    x = tensor(7, 2, 4)
    h, _ = recurrent((x @ weights[0].T + weights[1]).tanh())
    y = (h @ weights[6].T + weights[7]).tanh()
    output, hidden, inner = net(x, weights=weights, return_hidden=True, return_hidden_int=True)
    torch.testing.assert_close(output, y @ weights[8].T + weights[9])
    torch.testing.assert_close(hidden[1], y)
    torch.testing.assert_close(inner[1], h)
    assert inner[0] is None


def test_truncated_backpropagation():
    net = SimpleRNN(2, (3,), (), (2,), no_weights=True, verbose=False)
    weights = random_weights(net)
    x = tensor(6, 1, 2).requires_grad_()
    net.bptt_depth = 2
    net(x, weights=weights)[-1].sum().backward()
    assert (x.grad[:4] == 0).all()
    assert (x.grad[4:] != 0).all()
    with pytest.raises(ValueError, match="bptt_depth"):
        net.bptt_depth = 0
    assert net.num_rec_layers == 1
    assert not net.use_lstm


@pytest.mark.parametrize("lstm", [False, True])
def test_recurrent_outputs(lstm):
    net = SimpleRNN(4, (5, 3), (), (), use_lstm=lstm, no_weights=True, verbose=False)
    assert not net.has_fc_out
    assert not net.has_linear_out
    x, weights = tensor(2, 3, 4), random_weights(net)
    masks = net.get_output_weight_mask(out_inds=[1])
    # At the first step no other unit hears of a change in unit 1's rows.
    changed = [w if m is None else w + m for w, m in zip(weights, masks, strict=True)]
    difference = (net(x, weights=changed) - net(x, weights=weights))[0].abs().amax(0)
    assert difference[1] > 1e-6
    assert difference[0] == difference[2] == 0
    with pytest.raises(ValueError, match="out_inds"):
        net.get_output_weight_mask(out_inds=[3])


def test_recurrent_initialisation():
    torch.manual_seed(0)
    net = SimpleRNN(4, (400,), (), (1,), use_lstm=True, verbose=False)
    assert all(float(w.detach().abs().max()) == pytest.approx(400**-0.5, rel=0.01) for w in net.internal_params[:4])
    wide = SimpleRNN(4, (400,), (), (1,), kaiming_rnn_init=True, verbose=False)
    assert float(wide.internal_params[0].detach().abs().max()) == pytest.approx(0.5, rel=0.01)
    net = SimpleRNN(4, (20,), (), (1,), use_lstm=True, verbose=False).double()
    net.init_hh_weights_orthogonal()
    for gate in net.internal_params[2].chunk(4):
        torch.testing.assert_close(gate @ gate.T, torch.eye(20).double(), rtol=1e-5, atol=1e-5)
