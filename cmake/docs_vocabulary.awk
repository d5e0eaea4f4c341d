# Doxygen's input filter. The library uses one vocabulary (README), so a field or an accessor of that name
# needs no comment in the header; here its meaning is added for the reference. Only words that mean the same
# wherever they stand are here. A member with a comment of its own keeps it, and any other must have one.
BEGIN {
    n["base"] = "The base of the geometric frequencies: rope_theta, freq_base."
    n["rotary_dim"] = "Channels that rotate, two a pair."
    n["head_dim"] = "Channels of a head."
    n["batches"] = "Batches."
    n["tokens"] = "Tokens."
    n["heads"] = "Heads; where a table is meant, 1 = one row for all heads."
    n["channels"] = "Channels."
    n["pairs"] = "Pairs: channels that rotate / 2."
    n["axes"] = "Axes a position has."
    n["rows"] = "Rows."
    n["row_count"] = "Rows of the table."
    n["table_rows"] = "Rows of the table; every row named must be below."
    n["layers"] = "Layers of the model."
    n["frames"] = "Frames."
    n["height"] = "Rows of the grid."
    n["width"] = "Columns of the grid."
    n["row_stride"] = "Elements from one row to the next."
    n["head_stride"] = "Elements from one head's row to the next head's."
    n["magnitude"] = "Factor on cos and sin: attention_factor, mscale, attn_factor."
    n["cos"] = "Cosines, the magnitude inside."
    n["sin"] = "Sines, the magnitude inside."
    n["factor"] = "How many times longer the context becomes."
    n["original_context"] = "Tokens of the training context: original_max_position_embeddings, n_ctx_orig."
    n["max_context"] = "max_position_embeddings: the longest context the model is made for."
    n["context_length"] = "Tokens of the context the frequencies are for."
    n["attention_factor"] = "The magnitude, where the config names it."
    n["extrapolation_factor"] = "How far the ramp is followed: 1 fully, 0 not at all."
    n["beta_fast"] = "Turns within the training context above which a pair is left as trained."
    n["beta_slow"] = "Turns within the training context below which a pair is interpolated."
    n["low_freq_factor"] = "Turns within the training context below which a pair is interpolated."
    n["high_freq_factor"] = "Turns within the training context above which a pair is left as trained."
    n["short_factors"] = "Divisor of each pair up to the training context."
    n["long_factors"] = "Divisor of each pair beyond the training context."
    n["mscale"] = "DeepSeek's mscale."
    n["mscale_all_dim"] = "DeepSeek's mscale_all_dim."
    n["layout"] = "Which two channels form a pair."
    n["read_layout"] = "Which two channels form a pair before rotation."
    n["write_layout"] = "Which two channels form a pair after rotation."
    n["data"] = "The caller's memory; not owned."
    n["shape"] = "Extents."
    n["strides"] = "Distances between neighbours, in elements."
    n["empty"] = "Whether there is nothing to do."
    n["key_heads"] = "Heads of the keys."
    n["query_heads"] = "Heads of the queries."
    n["model_type"] = "The config's model_type."
    n["freq_base"] = "The base of the geometric frequencies."
    n["size"] = "How many."
    n["byte_count"] = "Bytes held."
    n["omegas"] = "All frequencies of the first head, in radians per unit of position."
    n["text_tokens"] = "Tokens of text."
    n["row_of_token"] = "The table row each token reads; negative: the token is not touched."
    n["is_mixed"] = "Whether every pair reads every axis."
    n["page_tokens"] = "Tokens a page holds."
    n["kv_heads"] = "Heads of the keys and values."
    n["first_channel"] = "The first channel that rotates."
    n["hidden"] = "Channels of the model's hidden state."
    n["eps"] = "Added under the root of a norm."
    n["text_before"] = "Tokens of text before it."

    # Functions of arguments.
    m["first"] = "First channel of a pair, among that many pairs."
    m["second"] = "Second channel of a pair, among that many pairs."
    m["from_bits"] = "From the stored bits."
    m["row"] = "The table row of a token; negative: the token is not touched."
    m["cos_at"] = "Cosines of a row, the magnitude inside."
    m["sin_at"] = "Sines of a row, the magnitude inside."
    m["check"] = "Throws invalid_config on a field that cannot be."
    m["next_position"] = "Where generation goes on."
    m["place"] = "Adds a segment behind those so far."
    m["row_count"] = "Rows of one of the tables."
    m["frequencies"] = "The spectrum of one of the tables."
    m["cos_row"] = m["cos_at"]
    m["sin_row"] = m["sin_at"]
    m["cos_data"] = m["cos_at"]
    m["sin_data"] = m["sin_at"]
}
{
    line = $0
    added = ""
    if (!documented && line !~ /\/\/\//) {
        if (line ~ /^ *struct [a-z0-9_]+_config *\{/) {
            added = line; sub(/^ *struct /, "", added); sub(/_config.*/, "", added)
            added = "Parameters of " added ", by name."
        } else if (match(line, /[a-z0-9_]+\(\)( const)?( noexcept)?( \{|;)/) && line !~ /^ *(return|if|for)/ && line !~ /\) const.*=/) {
            word = substr(line, RSTART); sub(/\(.*/, "", word)
            added = n[word]
        } else if (line ~ /^ +[A-Za-z_][A-Za-z0-9_:<>, *]* [a-z0-9_]+( = [^;]*|\{[^;]*\})?;( *\/\/.*)?$/ && gsub(/\(/, "(", line) == gsub(/\)/, ")", line) &&
                 line !~ /^ *(return|using|friend|delete|goto|throw|typedef) /) {
            word = line; sub(/( = .*|\{.*|;.*)$/, "", word); sub(/.*[ *]/, "", word)
            added = n[word]
        }
    }
    # Functions: a constructor, a conversion, or one more form of the function documented before.
    if (match(line, /^ *(template *<.*> *)?(struct|class) [a-z0-9_]+( |$)/) && line !~ /;$/) {
        type = substr(line, RSTART, RLENGTH); gsub(/^.*(struct|class) | *$/, "", type); last = ""
    }
    word = ""
    if (line !~ /^ *(return|if|for|while|else|:|\/\/|#|static_assert)/ && match(line, /[A-Za-z_][a-z0-9_]*\(/))
        word = substr(line, RSTART, RLENGTH - 1)
    indent = match(line, /[^ ]/)
    if (added == "" && !documented && line !~ /\/\/\// && indent <= 5) {
        if (line ~ /^ *using [a-z_]+ =/) { added = line; sub(/^ *using /, "", added); sub(/ =.*/, "", added); added = u[added] }
        else if (word in m && line ~ "[A-Za-z0-9_>&*] [*&]?" word "\\(") added = m[word]
        else if (line ~ /operator==\(/) added = "Compares member by member."
        else if (line ~ /^ *(constexpr |explicit )*operator [a-z_0-9:]+(<T>)?\(\) const/) added = "The same as a value of that type."
        else if (line ~ /operator=\(.*default/) added = "Moves."
        else if (word != "" && word == type && line ~ "^ *(explicit |constexpr )*" type "\\(") added = "From its parts, checked; see the type's comment."
        else if (word != "" && word == last && line ~ "[A-Za-z0-9_>&*] [*&]?" word "\\(") added = "@overload"
    }
    if (documented && word != "" && indent <= 5) last = word
    if (added != "") { match(line, /^ */); line = substr(line, 1, RLENGTH) "/** " added " */ " substr(line, RLENGTH + 1) }
    # A heading of a comment begins a line of its own; what keeps a parameter out of deduction says nothing to a reader.
    if (match(line, /^ *\/\/\/ (Shapes|Units|Requires|Returns|Throws|Cost|Accuracy|Threads|Slices|Source)(, (Shapes|Requires|Returns|Throws|Cost|Accuracy|Threads))*:/)) {
        heading = substr(line, RSTART, RLENGTH); rest = substr(line, RSTART + RLENGTH)
        sub(/\/\/\/ /, "/// @n<b>", heading)
        line = heading "</b>" rest
    }
    while ((at = index(line, "std::type_identity_t<")) > 0) {
        rest = substr(line, at + 21)
        depth = 1
        for (i = 1; depth > 0 && i <= length(rest); ++i) {
            c = substr(rest, i, 1)
            if (c == "<") ++depth
            if (c == ">") --depth
        }
        line = substr(line, 1, at - 1) substr(rest, 1, i - 2) substr(rest, i)
    }
    documented = ($0 ~ /^ *\/\/\// && $0 !~ /^ *\/\/\/ *@/) || ($0 ~ /^ *(template *<.*>|requires.*|\[\[.*\]\])$/ && documented)
    print line
}
