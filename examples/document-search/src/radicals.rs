//! Radicals to the characters that they look like. Fonts draw 水 and the radical ⽔ with one glyph,
//! and some programs that write PDFs, Chromium's among them, name it by the radical: the text that
//! comes out looks right, and no search finds it.

/// The characters of the radicals of Kangxi, U+2F00 to U+2FD5, in their order.
const KANGXI: &str = "一丨丶丿乙亅二亠人儿入八冂冖冫几凵刀力勹匕匚匸十卜卩厂厶又口囗土士夂夊夕大女子宀寸小尢尸\
    屮山巛工己巾干幺广廴廾弋弓彐彡彳心戈戶手支攴文斗斤方无日曰月木欠止歹殳毋比毛氏气水火爪父\
    爻爿片牙牛犬玄玉瓜瓦甘生用田疋疒癶白皮皿目矛矢石示禸禾穴立竹米糸缶网羊羽老而耒耳聿肉臣自\
    至臼舌舛舟艮色艸虍虫血行衣襾見角言谷豆豕豸貝赤走足身車辛辰辵邑酉釆里金長門阜隶隹雨靑非面\
    革韋韭音頁風飛食首香馬骨高髟鬥鬯鬲鬼魚鳥鹵鹿麥麻黃黍黑黹黽鼎鼓鼠鼻齊齒龍龜龠";

/// Radicals of the supplement, U+2E80 to U+2EFF, that are characters too, each before
/// its character.
const SUPPLEMENT: &str = "⺝月⺟母⺠民⺩王⺪疋⺶羊⺸羊⺼月⻁虎⻄西⻅见⻆角⻈讠⻉贝⻋车⻌辶⻐钅⻑長⻓长⻔门⻗雨⻘青\
    ⻙韦⻚页⻛风⻜飞⻝食⻠饣⻡首⻢马⻣骨⻤鬼⻥鱼⻦鸟⻧卤⻨麦⻩黄⻪黾⻬齐⻮齿⻰龙⻳龟";

/// The character that is meant by `c`.
pub(crate) fn character(c: char) -> char {
    match u32::from(c) {
        code @ 0x2f00..=0x2fd5 => KANGXI.chars().nth((code - 0x2f00) as usize).unwrap_or(c),
        0x2e80..=0x2eff => {
            let mut pairs = SUPPLEMENT.chars();
            while let (Some(radical), Some(character)) = (pairs.next(), pairs.next()) {
                if radical == c {
                    return character;
                }
            }
            c
        }
        _ => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_radical_becomes_its_character_and_all_else_stays() {
        let text: String = "⼀⽔⿕⻢⻔⻓⻛⻋，水㐀A。".chars().map(character).collect();
        assert_eq!(text, "一水龠马门长风车，水㐀A。");
        assert_eq!(KANGXI.chars().count(), 214);
        assert_eq!(SUPPLEMENT.chars().count() % 2, 0);
    }
}
