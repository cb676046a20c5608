"""Random schedules: meshes of 8 to 32 devices to which much happens in little time."""

from tests.routing.simulation import World


def random_world(seed: int) -> World:
    """A connected random mesh; a third of them crowded, a third sparse."""
    world = World(seed, split_horizon=seed % 4 != 0)
    rng = world.rng
    names = [f"n{index}" for index in range(rng.randint(8, 32))]
    pairs = {(names[rng.randrange(index)], names[index]) for index in range(1, len(names))}
    for _ in range(int(len(names) * rng.choice((0.2, 0.6, 1.2)))):
        a, b = sorted(rng.sample(names, 2), key=names.index)
        pairs.add((a, b))
    world.join((a, b, rng.choice((10, 10, 20, 60, 200, 900))) for a, b in sorted(pairs))
    return world


def disturb(world: World, times: int) -> None:
    """Let ``times`` things happen, some at the same moment."""
    rng, wires = world.rng, sorted(world.wires)
    for _ in range(times):
        match rng.choices(("cut", "connect", "price", "restart", "forget", "split"), (5, 6, 4, 2, 1, 1))[0]:
            case "cut":
                world.cut(*rng.choice(wires))
            case "connect":
                world.connect(*rng.choice(wires))
            case "price":
                world.reprice(*rng.choice(wires), rng.choice((1, 10, 30, 100, 1000)))
            case "restart":
                world.restart(rng.choice(sorted(world.nodes)))
            case "forget":
                world.restart(rng.choice(sorted(world.nodes)), forgets_epoch=True)
            case "split":
                side = set(rng.sample(sorted(world.nodes), len(world.nodes) // 2))
                for a, b in wires:
                    if (a in side) != (b in side):
                        world.cut(a, b)
        world.run(rng.choice((0.0, 0.02, 0.1, 0.5, 2.0)))


def run_schedule(seed: int) -> World:
    """One schedule: a third of them on wires that lose, repeat and reorder. Raises LoopError.

    On wires that keep to their contract the routes must be right in the end; on others, once they do
    again and the periodic updates and expiries have been round.
    """
    world = random_world(seed)
    is_hostile = seed % 3 == 0
    if is_hostile:
        world.loss, world.disorder = world.rng.choice((0.02, 0.2)), world.rng.choice((0.05, 0.3))
    world.run(world.rng.choice((0.2, 1.0, 3.0)))
    disturb(world, world.rng.randint(4, 16))
    if not is_hostile:
        world.run(30.0)
        assert world.unconverged() == []
    elif seed % 30 == 0:
        world.loss = world.disorder = 0.0
        world.run(1800.0)
        assert world.unconverged() == []
    world.check_loops()
    return world


def grid(side: int, seed: int = 1) -> World:
    """``side`` x ``side`` devices, each linked to those beside, above and below it."""
    world = World(seed, detection=0.1, delay=0.02)
    right = [(f"{x},{y}", f"{x + 1},{y}", 10) for x in range(side - 1) for y in range(side)]
    down = [(f"{x},{y}", f"{x},{y + 1}", 10) for x in range(side) for y in range(side - 1)]
    world.join(right + down)
    return world


def ring(size: int, seed: int = 1) -> World:
    """Each device linked to the next, the last to the first."""
    world = World(seed, detection=0.1, delay=0.02)
    world.join((f"{index}", f"{(index + 1) % size}", 10) for index in range(size))
    return world
