// Ropewalk: rotary position embeddings for CPUs. MIT licence, see LICENSE.
// Tables of rotation matrices for blocks of channels wider than a pair: LieRE, ComRoPE.
#pragma once

#include <span>
#include <vector>

#include <ropewalk/angles/rotation_table.hpp>
#include <ropewalk/angles/skew_exponential.hpp>

namespace ROPEWALK_VIEW_NAMESPACE {

namespace detail {

/// The channel of its block that coefficient `k` of channel `i` multiplies. Blocks of 2, 4 and 8 exchange
/// neighbours, which registers do in place; other blocks are rotated cyclically.
constexpr index block_partner(index i, index k, index size) noexcept {
    return size == 2 || size == 4 || size == 8 ? i ^ k : (i + k) % size;
}

}  // namespace detail

/// The square matrices of the tokens of one call, one per block of adjacent channels.
/// Shapes:   coefficients [table_rows, heads or 1, size, blocks * size]. Number k of channel i is the entry
///           of its matrix row for channel i ^ k of the block (sizes 2, 4 and 8) or (i + k) % size (other
///           sizes), so that a whole register of channels is multiplied at once. Block n is channels [n size,
///           (n + 1) size) of a head. A negative row means that the token is not touched.
/// Requires: every row is below table_rows; the table outlives the call.
/// Source:   LieRE, arXiv 2406.10322.
template <class C>
struct block_rows_view : token_rows<block_rows_view<C>> {
    const C* coefficients = nullptr;  ///< see Shapes
    index table_rows = 0;
    index heads = 1;
    index blocks = 0;  ///< blocks of a head
    index size = 0;
    detail::row_indices indices;  ///< default: row = token ordinal

    /// The row of a token; negative: the token is not touched.
    constexpr index row(index token) const noexcept { return indices[this->ordinal(token)]; }
    /// The first matrix of a head, which has `blocks` of them.
    constexpr const C* at(index row, index head) const noexcept {
        return coefficients + (row * heads + (heads == 1 ? 0 : head)) * blocks * size * size;
    }
};

}  // namespace ROPEWALK_VIEW_NAMESPACE

namespace ROPEWALK_NAMESPACE {

/// The extents of a table of rotation blocks.
struct rotation_blocks_shape {
    index rows = 0;
    index heads = 1;
    index blocks = 0;  ///< blocks of a head
    index size = 2;    ///< channels of a block, 1 .. 64
};

/// A rotation matrix for every block of every head and row, for blocks wider than a pair. With size 2 it
/// holds the same rotations as a rotation_table with interleaved pairs, in four numbers per pair instead of
/// two.
/// Throws:   invalid_config on negative extents, heads < 1, a size outside 1 .. 64, or rows out of range.
/// Cost:     size * sizeof(T) bytes per channel and row: size / 2 times a plain table of full-width cos and
///           sin.
/// Accuracy: as fill_rotation_exponential, rounded to T once.
/// Source:   LieRE, arXiv 2406.10322; ComRoPE, arXiv 2506.03737.
template <class T = float>
class rotation_blocks {
  public:
    explicit rotation_blocks(const rotation_blocks_shape& shape) : shape_(shape) {
        constexpr const char* who = "rotation_blocks";
        detail::require(shape.heads >= 1, who, "heads must be >= 1", shape.heads);
        detail::require(shape.size >= 1 && shape.size <= max_block_size, who, "size must be in 1 .. 64",
                        shape.size);
        values_.resize(static_cast<std::size_t>(
            detail::checked_product(who, "rows, heads and blocks must be >= 0",
                                    {shape.rows, shape.heads, shape.blocks, shape.size, shape.size})));
    }

    const rotation_blocks_shape& shape() const noexcept { return shape_; }
    /// One entry of the matrix of a block.
    T at(index row, index head, index block, index r, index c) const noexcept {
        return values_[offset(row, head, block, r, c)];
    }
    /// Stores the matrix of a block, given in row-major order.
    void set(index row, index head, index block, std::span<const double> matrix) noexcept {
        for (index r = 0; r < shape_.size; ++r)
            for (index c = 0; c < shape_.size; ++c)
                values_[offset(row, head, block, r, c)] =
                    static_cast<T>(matrix[static_cast<std::size_t>(r * shape_.size + c)]);
    }

    /// Row = token ordinal.
    [[nodiscard]] block_rows_view<T> rows() const& noexcept ROPEWALK_LIFETIMEBOUND {
        block_rows_view<T> v;
        v.coefficients = values_.data();
        v.table_rows = v.tokens = shape_.rows;
        v.heads = shape_.heads;
        v.blocks = shape_.blocks;
        v.size = shape_.size;
        return v;
    }
    block_rows_view<T> rows() const&& = delete;  // the table is a temporary: name it
    /// The same as rows(), for a call that takes the table itself.
    operator block_rows_view<T>() const& noexcept ROPEWALK_LIFETIMEBOUND { return rows(); }
    /// The rows of the tokens of one call, checked once; -1 leaves a token untouched. The view refers to the
    /// table and to the caller's range, which must outlive it.
    template <lasting_integer_range R>
    [[nodiscard]] block_rows_view<T> rows(R&& row_of_token) const& ROPEWALK_LIFETIMEBOUND {
        return detail::with_rows("rotation_blocks::rows", rows(), row_of_token);
    }

  private:
    std::size_t offset(index row, index head, index block, index r, index c) const noexcept {
        ROPEWALK_EXPECT(row >= 0 && row < shape_.rows && head >= 0 && head < shape_.heads && block >= 0 &&
                        block < shape_.blocks);
        const index size = shape_.size;
        const index k = size == 2 || size == 4 || size == 8 ? r ^ c : (c - r + size) % size;
        return static_cast<std::size_t>(
            (((row * shape_.heads + head) * size + k) * shape_.blocks + block) * size + r);
    }

    rotation_blocks_shape shape_;
    detail::aligned_vector<T> values_;
};

}  // namespace ROPEWALK_NAMESPACE
