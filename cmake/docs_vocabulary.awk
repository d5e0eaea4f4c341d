# Doxygen's input filter, in which a header or page is read as a whole and then written with what a reader of the
# reference needs beside it. The library uses one vocabulary (README), so a field or an accessor of that name needs no
# comment in the header; the filter adds its meaning. It has only words with the same meaning in every header. A member
# with its own comment keeps it, and any other member must have one. Beyond that the filter
#   - makes its first lines the description of the file, and names the header of every free function,
#   - documents an overload without a comment as the same call with other parameters,
#   - leaves out the prefix detail:: and what only stops deduction,
#   - links names: of functions and macros in comments, and of headers, functions and folders in the pages.
# -v list=FILE writes the documented names of all headers to FILE; -v names=FILE reads them.
# -v readme=README.md -v include_dir=DIR: where the pages find sections, and what folders are called.
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
    n["frequencies"] = "The spectrum whose angles the rows hold."
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
    m["cos_row"] = m["cos_at"]
    m["sin_row"] = m["sin_at"]
    m["cos_data"] = m["cos_at"]
    m["sin_data"] = m["sin_at"]

    # The documented names, in full with their kind (f function or macro, t type, n namespace, x one with a comment), and
    # alone if only one has it.
    if (names != "") {
        while ((getline entry < names) > 0) {
            split(entry, of, " ")
            full[of[2]] = of[1]
            if (of[1] !~ /[ft]/) continue
            if (!(of[3] in target)) target[of[3]] = of[2]
            else if (target[of[3]] != of[2]) target[of[3]] = ""
        }
        close(names)
    }
}
# Code without literals and comments, of which only brackets and words are read.
function bare(text) {
    gsub(/\\\\|\\"/, "", text)
    gsub(/R?"[^"]*"/, "\"\"", text)
    gsub(/'[^']'|'\\.'/, "0", text)
    sub(/\/\/.*/, "", text)
    return text
}
# The text after the balanced brackets at its start.
function after_brackets(text, left, right,    i, depth, c) {
    for (i = 1; i <= length(text); ++i) {
        c = substr(text, i, 1)
        if (c == left) ++depth
        if (c == right && --depth == 0) return substr(text, i + 1)
    }
    return ""
}
function without_template(text) {
    while (text ~ /^ *template *</) text = after_brackets(text, "<", ">")
    if (text ~ /^ *requires *\(/) text = after_brackets(text, "(", ")")
    return text
}
# Reads the declaration that begins at lines[at]: its kind, its name and the names of its parameters.
function read_declaration(at,    text, i, rest, inner, k, depth, part, c) {
    kind = ""; word = ""; parameters = ""; remark = ""
    if (lines[at] ~ /^ *#/) {
        while (lines[at] ~ /^# *if/) ++at
        if (match(lines[at], /^# *define [A-Za-z0-9_]+/)) {
            kind = "macro"
            word = substr(lines[at], RSTART, RLENGTH)
            sub(/.* /, "", word)
        }
        return
    }
    for (i = at; i <= total && i < at + 16; ++i) {
        rest = bare(lines[i])
        if (match(lines[i], /;? \/\/ .*/)) remark = substr(lines[i], RSTART)
        if (rest ~ /^ *requires /) continue
        text = text " " rest
        if (rest ~ /[;{]/) break
    }
    gsub(/\[\[[^\]]*\]\]|decltype\(auto\)|alignas\([^)]*\)|ROPEWALK_[A-Z_]+|explicit\([^)]*\)|noexcept\(.*/, " ", text)
    text = without_template(text)
    gsub(/^ +| +$/, "", text)
    deleted = text ~ /= *delete/
    if (text ~ /^(inline )?namespace/) { kind = "namespace"; return }
    if (match(text, /^(requires .*)?(struct|class|concept|union) +[A-Za-z0-9_]+/)) {
        kind = "type"
        is_concept = text ~ /^concept /
        word = substr(text, RSTART, RLENGTH); sub(/.* /, "", word)
        return
    }
    if (text ~ /^(enum|using|typedef|friend) /) { kind = "other"; return }
    rest = text; sub(/[;{].*/, "", rest)
    if (!match(rest, /(operator *[^ (A-Za-z]+|operator\(\)|~?[A-Za-z_][A-Za-z0-9_]*)\(/) || substr(rest, 1, RSTART) ~ / = /) {
        kind = "other"
        return
    }
    kind = "function"
    word = substr(rest, RSTART, RLENGTH - 1)
    returns = substr(rest, 1, RSTART - 1)
    # Parameters: split at the commas outside brackets; of each the last name before a default.
    inner = substr(text, RSTART + RLENGTH - 1)
    depth = 0; part = ""
    for (k = 1; k <= length(inner); ++k) {
        c = substr(inner, k, 1)
        if (c ~ /[(<{]/) ++depth
        if (c ~ /[)>}]/ && --depth == 0 && c == ")") break
        if (depth == 1 && c == "," || k == 1) { parameters = parameters parameter(part); part = ""; continue }
        part = part c
    }
    parameters = parameters parameter(part)
    sub(/^, /, "", parameters)
    constant = substr(inner, k) ~ /^\) *const/
}
function parameter(text) {
    sub(/ = .*/, "", text)
    gsub(/[^A-Za-z0-9_]+$/, "", text)
    sub(/.*[^A-Za-z0-9_]/, "", text)
    return text == "" ? "" : ", " text
}
# Opens and closes the blocks of a line: n namespace, c class, e enum, b everything else.
function follow(text,    c) {
    text = bare(text)
    while (match(text, /[{};]/)) {
        c = substr(text, RSTART, 1)
        statement = statement " " substr(text, 1, RSTART - 1)
        text = substr(text, RSTART + 1)
        if (c == "{") {
            ++depth_now
            block[depth_now] = block_of(statement)
            hidden[depth_now] = hidden[depth_now - 1] || statement ~ /namespace .*(detail|simd)/
            space[depth_now] = space[depth_now - 1]
            if (block[depth_now] == "n" && match(statement, /namespace +[A-Za-z0-9_:]+/)) {
                c = substr(statement, RSTART, RLENGTH)
                sub(/namespace +/, "", c); sub(/ROPEWALK_(VIEW_)?NAMESPACE/, "ropewalk", c)
                space[depth_now] = space[depth_now] (space[depth_now] == "" ? "" : "::") c
                spaces[space[depth_now]] = !hidden[depth_now]
            }
        } else if (c == "}" && depth_now > 0) --depth_now
        statement = ""
    }
    statement = statement " " text
    gsub(/^ +/, "", statement)
}
# The namespace that a line opens, in full.
function namespace_of(line) {
    sub(/^ *(inline )?namespace +/, "", line)
    sub(/ROPEWALK_(VIEW_)?NAMESPACE/, "ropewalk", line)
    sub(/ .*/, "", line)
    return (space[depth_now] == "" ? "" : space[depth_now] "::") line
}
function block_of(text) {
    gsub(/\[\[[^\]]*\]\]|alignas\([^)]*\)/, "", text)
    gsub(/^ +/, "", text)
    sub(/^((public|private|protected): *)+/, "", text)
    text = without_template(text)
    if (block[depth_now - 1] == "b") return "b"
    if (text ~ /^ *(inline )?namespace|extern ""/) return "n"
    if (text ~ /^ *(typedef )?enum /) return "e"
    if (match(text, /(^|[ )>])(struct|class|union) /) && substr(text, RSTART + RLENGTH) !~ /\(/) return "c"
    return "b"
}
# The full name of a function, macro or (in pages) type that a name means in a namespace, or nothing.
function meant(name, scope) {
    for (; scope != ""; sub(/:*[^:]*$/, "", scope))
        if ((scope "::" name) in full) return full[scope "::" name] ~ /[ft]/ ? scope "::" name : ""
    return name ~ /_/ ? target[name] : ""
}
function link(name, text) { return "@ref " name " \"" text "\"" }
# Names of functions in a line of a comment. `own` is the name that the comment describes.
function linked(text, own, scope,    out, ahead, before, code, name) {
    while (match(text, /[A-Za-z_][A-Za-z0-9_]*|`/)) {
        ahead = substr(text, 1, RSTART - 1); name = substr(text, RSTART, RLENGTH)
        text = substr(text, RSTART + RLENGTH)
        out = out ahead
        if (name == "`") code = !code
        before = substr(out, length(out), 1)
        if (!code && name != own && name in target && before !~ /[:.#@\\\/"(<_0-9-]/ &&
            text !~ /^(\(|<|::|[.\/\-"=][A-Za-z0-9])/ && (name ~ /._./ || out ~ /(^|[^A-Za-z])([Ss]ee|[Aa]s) $/))
            if (full[meant(name, scope)] ~ /f/) name = link(meant(name, scope), name)
        out = out name
    }
    return out text
}
# Code in a page: names of functions, macros, headers and presets are links.
function linked_code(code, scope,    out, name, rest, whole) {
    if (code ~ /^[a-z_0-9]+\/[a-z_0-9]+\.hpp$|^ropewalk\/[a-z_0-9\/]+\.hp*$/) {
        name = code
        sub(/^ropewalk\//, "", name)
        return "<code>" link((code ~ /ropewalk/ && name !~ /\// ? code : name), code) "</code>"
    }
    if (code in folder) return "<code>" link(folder[code], code) "</code>"
    while (match(code, /[A-Za-z_][A-Za-z0-9_]*(::[a-z0-9_]+)*/)) {
        name = substr(code, RSTART, RLENGTH); rest = substr(code, RSTART + RLENGTH)
        out = out escaped(substr(code, 1, RSTART - 1))
        if (out ~ /-$/ && sub(/^DROPEWALK/, "ROPEWALK", name)) out = out "D"
        whole = meant(name, scope)
        if (whole == "" && match(name, /::[^:]*$/)) whole = meant(substr(name, 1, RSTART - 1), scope)
        if (out !~ /[.\/"]$/ && rest !~ /^\// && whole != "") name = link(whole, name)
        out = out name
        code = rest
    }
    return "<code>" out escaped(code) "</code>"
}
function escaped(text) {
    gsub(/&/, "\\&amp;", text); gsub(/</, "\\&lt;", text); gsub(/>/, "\\&gt;", text); gsub(/\|/, "\\&#124;", text)
    return text
}
function page_line(text, scope,    out, code, before) {
    while (match(text, /`[^`]*`/)) {
        code = substr(text, RSTART + 1, RLENGTH - 2)
        before = substr(text, 1, RSTART - 1)
        text = substr(text, RSTART + RLENGTH)
        # After frequencies::linear also `ntk` is of that namespace.
        if (match(code, /^[a-z_0-9]+::/) && full["ropewalk::" substr(code, 1, RLENGTH - 2)] ~ /[nx]/)
            scope = "ropewalk::" substr(code, 1, RLENGTH - 2)
        out = out names_of(before) linked_code(code, scope == "" ? "ropewalk" : scope)
    }
    return out names_of(text)
}
function names_of(text,    out, name) {
    while (match(text, /ropewalk(::[a-z0-9_]+)+/)) {
        name = substr(text, RSTART, RLENGTH)
        out = out substr(text, 1, RSTART - 1)
        out = out (out ~ /@[a-z]+ $/ ? name : link(name, substr(name, 11)))
        text = substr(text, RSTART + RLENGTH)
    }
    return out text
}
# A page: sections of README where it names them, and every row of a folder also as the text of the folder.
function write_page(    i, text, where, scope, folders, name, inside, wanted) {
    for (i = 1; i <= total; ++i)
        if (match(lines[i], /^\| `[a-z]+\/` \| /)) {
            name = substr(lines[i], 4, RLENGTH - 7)
            folder[name] = include_dir "/ropewalk/" substr(name, 1, length(name) - 1)
        }
    for (i = 1; i <= total; ++i) {
        text = lines[i]
        if (match(text, /^<!-- README: .* -->$/)) {  # the section of that name
            wanted = "## " substr(text, 14, length(text) - 17)
            inside = 0
            while ((getline text < readme) > 0) {
                if (text ~ /^## /) inside = text == wanted
                else if (inside) print page_line(text, "")
            }
            close(readme)
            continue
        }
        if (lines[i + 1] ~ /^\|---/) scope = match(text, /ropewalk::[a-z_]+ \|$/) ? substr(text, RSTART, RLENGTH - 2) : ""
        if (match(text, /^\| `[a-z]+\/` \| /)) {
            name = substr(text, 4, RLENGTH - 8)
            where = substr(text, RLENGTH + 1)
            sub(/ *\|$/, "", where)
            folders = folders "/** @dir " folder[name "/"] "\n@brief " page_line(where, "") " */\n"
            if (("ropewalk::" name) in full) folders = folders "/** @namespace ropewalk::" name "\n@brief " page_line(where, "") " */\n"
        }
        print page_line(text, scope)
    }
    printf "%s", folders
}
# The architectures of a GGUF file, as the table in the header has them.
function write_architectures(    i, text, name, group, row, count) {
    for (i = 1; i <= total; ++i) {
        if (!match(lines[i], /\{\.name = "[^"]+"/)) continue
        name = substr(lines[i], RSTART + 10, RLENGTH - 11)
        text = lines[i]
        while (text !~ /\}/) text = text lines[++i]
        group = text ~ /rotation::never/ ? 3 : text ~ /half_split = true/ ? 1 : 2
        row[group] = row[group] " `" name "`"
        ++count
    }
    print "/** @page gguf_architectures GGUF architectures\n"
    print "The " count " architectures whose files " link("ropewalk::from_gguf", "from_gguf") " reads, as listed in " link("models/gguf_models.hpp", "models/gguf_models.hpp") ".\n"
    print "| pairs | architectures |\n|---|---|"
    print "| half-split |" row[1] " |\n| interleaved |" row[2] " |\n| nothing rotates |" row[3] " |\n*/"
}
function write_header(file,    i, line, added, own, described, last, last_parameters, code, header, k, at, rest, depth, c, name, folder_name, title, about) {
    header = file
    sub(/.*\/include\//, "", header)
    about = header
    sub(/^ropewalk\//, "", about)
    if (about !~ /\//) about = header
    folder_name = header
    sub(/\/[^\/]*$/, "", folder_name); sub(/.*\//, "", folder_name)
    depth_now = 0; statement = ""; block[0] = "n"; hidden[0] = 0; space[0] = ""
    type = last = last_macro = ""
    drop = macro = in_block = no_rows = 0
    title = 1
    about_header = ""
    for (i = 1; i <= total; ++i) {
        line = lines[i]
        if (title) {  # the licence line, then what the header is for
            if (line ~ /^\/\/ /) {
                if (i == 1) line = "/// @file"
                else {  # the first sentence in brief, then the rest
                    if (about_header == "") sub(/^\/\//, "/// @brief", line)
                    else if (about_header ~ /\.$/ && title == 1) {
                        title = 2
                        sub(/^\/\//, "///\n///", line)
                    } else sub(/^\/\//, "///", line)
                    if (title == 1) about_header = about_header substr(lines[i], 3)
                }
                print_out(linked(line, "", "ropewalk"))
                continue
            }
            title = 0
        }
        in_comment = line ~ /^ *\/\/\// && line !~ /^ *\/\/\/</
        open = !hidden[depth_now] && block[depth_now] ~ /[nc]/
        if (in_comment) {
            gsub(/ et al\. /, " et al.\\ ", line)  # no end of a sentence
            if (!in_block) {  # the first line of a block: what it describes
                for (k = i; lines[k] ~ /^ *\/\//; ++k) {}
                read_declaration(k)
                own = word
                described = lines[i] !~ /^ *\/\/\/ *@/ && lines[k] !~ /^ *$/
                code = headed = 0
                if (open && kind == "namespace" && lines[k] ~ "(:|namespace )" folder_name " ") print_out("/// @file\n/// @details")
                if (kind == "macro") print_out("/// @def " word)
            }
            in_block = 1
            if (line ~ /^ *\/\/\/     / && (code || lines[i - 1] ~ /^ *\/\/\/$/)) code = 1
            else if (line !~ /^ *\/\/\/$/) code = 0
            # A heading of a comment begins a new line.
            if (match(line, /^ *\/\/\/ (Shapes|Units|Requires|Returns|Throws|Cost|Accuracy|Threads|Slices|Source)(, (Shapes|Requires|Returns|Throws|Cost|Accuracy|Threads))*:/)) {
                heading = substr(line, RSTART, RLENGTH); rest = substr(line, RSTART + RLENGTH)
                sub(/\/\/\/ /, "/// @n<b>", heading)
                headed = 1
                line = heading "</b>" (open ? linked(rest, own, space[depth_now]) : rest)
            } else if (open && !code) line = linked(line, own, space[depth_now])
            print_out(line)
            continue
        }
        added = ""
        # Out of its class a member is defined a second time, and a macro of the library's own is no user's business.
        if (open && !in_block && statement == "" && line !~ /^ *(\/\/|#|\}|$)/) {
            read_declaration(i)
            if (kind == "function" && returns ~ /::$/) drop = depth_now + 1
        }
        if (drop && depth_now < drop && statement == "" && lines[i] ~ /^ *$/) drop = 0
        if (drop) {
            print_out("")
            follow(lines[i])
            continue
        }
        if (!in_block && line ~ /^# *define ROPEWALK_(DETAIL_|ALWAYS_)/) macro = 1
        if (macro) {
            macro = line ~ /\\$/
            print_out("")
            continue
        }
        if (open && statement ~ /^ *((public|private|protected): *)*$/ && line ~ /[^ ]/ && line !~ /^ *(\/\/|\}|public:|private:|protected:)/ && line !~ /\/\/\//) {
            read_declaration(i)
            if (kind == "macro" && in_block) last_macro = word
            if (kind == "namespace") {
                name = namespace_of(line)
                if (in_block && line !~ "(:|namespace )" folder_name " ") explained[name] = 1
                # A namespace without a comment is what its header is for.
                if (full[name] == "n" && name != "ropewalk" && name !~ "::" folder_name "$" && name !~ /^Eigen|detail|::simd/ && !(name in told)) {
                    added = "@brief" about_header
                    told[name] = 1
                }
            }
            if (list != "" && kind == "type" && is_concept && !in_block) {  # of which Doxygen says nothing
                print header ": concept " word " is not documented" > "/dev/stderr"
                failed = 1
            }
            if (kind == "type" && lines[i] !~ /;$/) {
                type = word
                last = ""
                if (list != "" && in_block && block[depth_now] == "n") note("t", space[depth_now] "::" word, word)
            }
            if (!in_block && kind != "namespace") added = meaning(i, last, last_parameters)
            if (kind == "function" && (in_block || added != "") && added !~ /^As the %/) { last = word; last_parameters = parameters; last_constant = constant }
            described = in_block || added != ""
            if (described && block[depth_now] == "n" && kind ~ /function|other|macro/) {
                if (list != "" && kind == "function" && added == "") note("f", space[depth_now] "::" word, word)
                if (list != "" && kind == "macro") note("f", word, word)
                if (kind != "macro" && line !~ /^ *using namespace/)
                    added = added (added != "" || headed ? "@n" : "") "<b>Header:</b> " link(about, header)
            }
        } else if (line ~ /^# *define/ && in_block && list != "") {
            read_declaration(i)
            note("f", word, word)
        }
        if (line !~ /^# *if/) in_block = 0
        if (open) {
            if (sub(/ = detail::no_rows/, "", line)) no_rows = i
            if (no_rows && i <= no_rows + 2) sub(/& rows = \{\}/, "\\& rows", line)
            if (block[depth_now] ~ /[nc]/) gsub(/detail::/, "", line)
        }
        if (added != "") { match(line, /^ */); line = substr(line, 1, RLENGTH) "/** " added " */ " substr(line, RLENGTH + 1) }
        # std::type_identity_t, which only stops deduction, is left out.
        while (match(line, /std::type_identity_t</)) {
            at = RSTART
            rest = substr(line, at + 21)
            depth = 1
            for (k = 1; depth > 0 && k <= length(rest); ++k) {
                c = substr(rest, k, 1)
                if (c == "<") ++depth
                if (c == ">") --depth
            }
            line = substr(line, 1, at - 1) substr(rest, 1, k - 2) substr(rest, k)
        }
        print_out(line)
        if (lines[i] !~ /^ *#/ && lines[i - 1] !~ /\\$/) follow(lines[i])
    }
    if (depth_now != 0) print "docs_vocabulary.awk: " header ": braces do not match" > "/dev/stderr"
}
function print_out(line) { if (list == "") print line }
function note(what, name, short) { if (!(name in noted)) print what, name, short > list; noted[name] = 1 }
# What a declaration without a comment means, or nothing.
function meaning(i, last, last_parameters,    line, name) {
    line = lines[i]
    if (line ~ /^ *struct [a-z0-9_]+_config *\{/) {
        name = word; sub(/_config$/, "", name)
        return "Parameters of " name ", by name."
    }
    if (line ~ /^ *using [a-z_]+ =/) return ""
    if (kind == "macro" && lines[i - 1] ~ /^# *define ROPEWALK_[A-CE-Z]/ && lines[i - 1] !~ /ROPEWALK_H/) return "See " last_macro "."
    if (kind == "function") {
        if (word ~ /^ropewalk_free_/) return "Frees a " substr(word, 15) "."
        if (word in m && returns != "") return m[word]
        if (parameters == "" && word in n && returns != "") return n[word]
        if (word ~ /^operator *==/) return "Compares member by member."
        if (word ~ /^operator *=$/ && line ~ /default/) return "Moves."
        if (word == type && returns ~ /^ *(explicit |constexpr )*$/) return "Constructs it from its parts, which are checked; see the type's comment."
        if (deleted) {
            sub(/.*\/\/ /, "", remark)
            return "Does not compile" (remark == "" ? "" : ": " remark) "."
        }
        if (word == last && returns != "") {
            if (parameters == last_parameters) return "As the %" word " above, for " (constant && !last_constant ? "a const object." : "other types.")
            if (parameters == "") return "As the %" word " above, without arguments."
            return "As the %" word " above, with the parameters (" parameters ")."
        }
        if (line ~ /^ *(constexpr |explicit )*operator [a-z_0-9:]+(<T>)?\(\) const/) return "Converts to that type."
        return ""
    }
    if (line ~ /^ *(constexpr |explicit )*operator [a-z_0-9:]+(<T>)?\(\) const/) return "Converts to that type."
    if (line ~ /^ +[A-Za-z_][A-Za-z0-9_:<>, *]* [a-z0-9_]+( = [^;]*|\{[^;]*\})?;( *\/\/.*)?$/ && line !~ /^ *(return|using|friend|delete|goto|throw|typedef) /) {
        sub(/( = .*|\{.*|;.*)$/, "", line); sub(/.*[ *]/, "", line)
        return n[line]
    }
    return ""
}
function process(file) {
    if (file ~ /\.dox$/) write_page()
    else write_header(file)
    if (file ~ /gguf_models\.hpp$/ && list == "") write_architectures()
}
FNR == 1 && NR > 1 { process(previous_file) }
{ lines[FNR] = $0; total = FNR; lines[total + 1] = ""; previous_file = FILENAME }
END {
    process(previous_file)
    if (list == "") exit
    for (name in spaces) {
        kind = name in explained ? "x" : "n"
        if (spaces[name]) print kind, name, name > list
    }
    exit failed
}
