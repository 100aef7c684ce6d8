"""A backend for torch.compile that shows what was compiled."""

from torch._dynamo.backends.common import aot_autograd


class Graphs:
    """A backend that keeps the targets of all graphs, forward and backward, and runs them as is."""

    def __init__(self):
        self.targets = []

    def compiler(self, graph, _):
        for node in graph.graph.nodes:
            if node.op == "call_function":
                # What writes to its arguments is called by another operator.
                functional = "auto_functionalized" in str(node.target)
                self.targets.append(str(node.args[0] if functional else node.target))
        return graph

    def backend(self):
        return aot_autograd(fw_compiler=self.compiler, bw_compiler=self.compiler)

    def ours(self):
        return sorted(name for name in self.targets if name.startswith("fused_acts"))
