# Doxygen's input filter. The library uses one vocabulary (README), so a field or an accessor of that name
# needs no comment in the header; this filter adds its meaning to the reference. It has only words with the same
# meaning in every header. A member with its own comment keeps it, and any other member must have one.
BEGIN {
    n["base"] = "The base of the geometric frequencies: rope_theta, freq_base."
    n["rotary_dim"] = "Channels that rotate: two per pair."
    n["head_dim"] = "Channels of a head."
    n["batches"] = "Batches."
    n["tokens"] = "Tokens."
    n["heads"] = "Heads; for a table, 1 = one row for all heads."
    n["channels"] = "Channels."
    n["pairs"] = "Pairs: half the channels that rotate."
    n["axes"] = "Axes of a position."
    n["rows"] = "Rows."
    n["row_count"] = "Rows of the table."
    n["table_rows"] = "Rows of the table; every row number must be below it."
    n["layers"] = "Layers of the model."
    n["frames"] = "Frames."
    n["height"] = "Rows of the grid."
    n["width"] = "Columns of the grid."
    n["row_stride"] = "Elements from one row to the next."
    n["head_stride"] = "Elements from the row of one head to that of the next."
    n["magnitude"] = "Factor of cos and sin: attention_factor, mscale, attn_factor."
    n["cos"] = "Cosines, multiplied by the magnitude."
    n["sin"] = "Sines, multiplied by the magnitude."
    n["factor"] = "How many times longer the context becomes."
    n["original_context"] = "Tokens of the training context: original_max_position_embeddings, n_ctx_orig."
    n["max_context"] = "max_position_embeddings: the longest context that the model supports."
    n["context_length"] = "Tokens of the context for which the frequencies are computed."
    n["attention_factor"] = "The magnitude, if the config has one."
    n["extrapolation_factor"] = "Weight of the ramp: 1 full, 0 none."
    n["beta_fast"] = "Turns within the training context above which a pair keeps its trained frequency."
    n["beta_slow"] = "Turns within the training context below which a pair is interpolated."
    n["low_freq_factor"] = "Turns within the training context below which a pair is interpolated."
    n["high_freq_factor"] = "Turns within the training context above which a pair keeps its trained frequency."
    n["short_factors"] = "Divisor of each pair up to the training context."
    n["long_factors"] = "Divisor of each pair beyond the training context."
    n["mscale"] = "DeepSeek's mscale."
    n["mscale_all_dim"] = "DeepSeek's mscale_all_dim."
    n["layout"] = "Which two channels form a pair."
    n["read_layout"] = "Which two channels form a pair before rotation."
    n["write_layout"] = "Which two channels form a pair after rotation."
    n["data"] = "The caller's memory, which the object does not own."
    n["shape"] = "Extents."
    n["strides"] = "Distances between neighbours, in elements."
    n["empty"] = "Whether there is nothing to do."
    n["key_heads"] = "Heads of the keys."
    n["query_heads"] = "Heads of the queries."
    n["model_type"] = "The config's model_type."
    n["freq_base"] = "The base of the geometric frequencies."
    n["size"] = "Number of elements."
    n["byte_count"] = "Bytes of memory in use."
    n["omegas"] = "All frequencies of the first head, in radians per unit of position."
    n["text_tokens"] = "Tokens of text."
    n["row_of_token"] = "The table row of each token; negative: the token is not touched."
    n["is_mixed"] = "Whether every pair reads every axis."
    n["page_tokens"] = "Tokens in a page."
    n["kv_heads"] = "Heads of the keys and values."
    n["first_channel"] = "The first channel that rotates."
    n["hidden"] = "Channels of the model's hidden state."
    n["eps"] = "Added under the square root of a norm."
    n["text_before"] = "Text tokens before the image or clip."

    # Functions of arguments.
    m["first"] = "First channel of a pair, among that many pairs."
    m["second"] = "Second channel of a pair, among that many pairs."
    m["from_bits"] = "Makes a number from its stored bits."
    m["row"] = "The table row of a token; negative: the token is not touched."
    m["cos_at"] = "Cosines of a row, multiplied by the magnitude."
    m["sin_at"] = "Sines of a row, multiplied by the magnitude."
    m["check"] = "Throws invalid_config on an invalid field."
    m["next_position"] = "The position of the first generated token."
    m["place"] = "Appends a segment."
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
    # Functions: a constructor, a conversion, or another overload of the function documented before.
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
        else if (line ~ /^ *(constexpr |explicit )*operator [a-z_0-9:]+(<T>)?\(\) const/) added = "Converts to that type."
        else if (line ~ /operator=\(.*default/) added = "Moves."
        else if (word != "" && word == type && line ~ "^ *(explicit |constexpr )*" type "\\(") added = "Constructs it from its parts, which are checked; see the type's comment."
        else if (word != "" && word == last && line ~ "[A-Za-z0-9_>&*] [*&]?" word "\\(") added = "@overload"
    }
    if (documented && word != "" && indent <= 5) last = word
    if (added != "") { match(line, /^ */); line = substr(line, 1, RLENGTH) "/** " added " */ " substr(line, RLENGTH + 1) }
    # A heading of a comment begins a new line; std::type_identity_t, which only stops deduction, is left out.
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
