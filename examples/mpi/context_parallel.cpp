// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.

// Ring attention over MPI (mpirun -np 4 context_parallel): every rank rotates its zigzag shard by itself and
// sees the others' keys and values pass by. Joined in the order of the shards, the parts have the bits of the
// whole.

#include <mpi.h>
#include <cstdio>
#include <random>
#include <ropewalk/attention/tiled_partial.hpp>
#include <ropewalk/ropewalk.hpp>
namespace rw = ropewalk;
using data = std::vector<float>;
using parts = std::vector<rw::partial_attention<float>>;
constexpr rw::index tokens = 999, heads = 4, dim = 64, each = heads * dim;
const auto omega = rw::frequencies::geometric({.rotary_dim = dim});

struct shard {
    std::vector<std::int32_t> at;  // which tokens of the sequence it holds
    data q, k, v;
    rw::heads_view<float> view(data& x) { return {x.data(), static_cast<rw::index>(at.size()), heads, dim}; }
    void rotate() {
        const auto where = rw::position_ids::from(at);
        rw::rotate(rw::half_split{}, view(q), view(k), rw::make_rotation_table(omega, where));
    }
    shard part(int rank, int ranks) const {
        using rw::positions::sharding;
        shard s{rw::positions::shard_tokens({tokens, ranks, sharding::zigzag}, rank), {}, {}, {}};
        for (const auto t : s.at)
            for (const auto x : {&shard::q, &shard::k, &shard::v})
                (s.*x).insert((s.*x).end(), &(this->*x)[0] + t * each, &(this->*x)[0] + (t + 1) * each);
        return s;
    }
    auto attend(shard other) {  // causal: to the keys of the other shard that stand before
        const auto keys = other.view(other.k), values = other.view(other.v);
        std::vector<std::byte> workspace(
            static_cast<std::size_t>(rw::attention::attend_workspace(view(q), keys, values)));
        return rw::attention::make_partial_attention(rw::attention::position_mask{at, other.at}, view(q), keys,
                                                     values, std::span<std::byte>(workspace));
    }
    data join(const parts& of_shards) {
        data out(q.size());
        rw::join_partial_attention(std::span(of_shards), view(out));
        return out;
    }
};

int main(int argc, char** argv) {
    MPI_Init(&argc, &argv);
    int rank = 0, ranks = 1;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    shard whole{rw::positions::shard_tokens({.tokens = tokens}, 0), data(tokens * each), {}, {}};
    whole.k = whole.v = whole.q;
    std::mt19937 engine(1);  // the same on every rank: it stands for the projections of the sequence
    for (auto* x : {&whole.q, &whole.k, &whole.v})
        for (float& value : *x) value = std::normal_distribution<float>()(engine);
    shard mine = whole.part(rank, ranks);
    mine.rotate();
    parts ring(static_cast<std::size_t>(ranks)), alone;
    shard passing = mine;  // its buffers take the largest shard: runs differ by a token
    const auto room = static_cast<std::size_t>((tokens / ranks + 2) * each);
    for (const auto x : {&shard::k, &shard::v}) (passing.*x).resize(room);
    const int back = ranks - 1;
    for (int step = 0, owner = rank; step < ranks; ++step, owner = (owner + back) % ranks) {
        passing.at = whole.part(owner, ranks).at;
        ring[static_cast<std::size_t>(owner)] = mine.attend(passing);
        for (const auto x : {&shard::k, &shard::v})
            MPI_Sendrecv_replace((passing.*x).data(), static_cast<int>((passing.*x).size()), MPI_FLOAT,
                                 (rank + 1) % ranks, 0, (rank + back) % ranks, 0, MPI_COMM_WORLD,
                                 MPI_STATUS_IGNORE);
    }
    whole.rotate();  // in one place: rotated at once, no ring
    for (int r = 0; r < ranks; ++r) alone.push_back(mine.attend(whole.part(r, ranks)));
    const shard rotated = whole.part(rank, ranks);
    int same = mine.q == rotated.q && mine.k == rotated.k && mine.join(ring) == mine.join(alone);
    MPI_Allreduce(MPI_IN_PLACE, &same, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    if (rank == 0) std::printf("%d ranks: the bits of the whole: %s\n", ranks, same ? "yes" : "no");
    MPI_Finalize();
    return same ? 0 : 1;
}
