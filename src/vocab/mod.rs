//! vocab
pub mod texts;
pub mod unicode;
#[cfg(test)]
mod cmp {
    #[test]
    fn compare() {
        let f = std::fs::read("/tmp/flags.bin").unwrap();
        use super::unicode::is;
        let mut diff = vec![];
        for c in 0..0x110000u32 {
            let want = u16::from_le_bytes([f[2*c as usize], f[2*c as usize+1]]);
            let k = super::unicode::kind(c);
            let mut got = 0;
            if k & is::NUMBER != 0 { got |= 2 }
            if k & is::LETTER != 0 { got |= 4 }
            if k & is::MARK != 0 { got |= 16 }
            if k & is::PUNCTUATION != 0 { got |= 32 }
            if k & is::SYMBOL != 0 { got |= 64 }
            if k & is::CONTROL != 0 { got |= 128 }
            if want & 0xF6 != got { diff.push((c, want, got)); }
        }
        println!("kinds differ {}", diff.len());
        let mut i = 0;
        while i < diff.len() { let s = diff[i]; let mut j = i; while j+1<diff.len() && diff[j+1].0 == diff[j].0+1 && diff[j+1].1==s.1 && diff[j+1].2==s.2 { j+=1 } println!("{:x}..{:x} want {:x} got {:x}", s.0, diff[j].0, s.1, s.2); i=j+1; }
        let rd = |p: &str| std::fs::read_to_string(p).unwrap().lines().map(|l| { let (a,b)=l.split_once(' ').unwrap(); (a.parse::<u32>().unwrap(), b.parse::<u32>().unwrap())}).collect::<std::collections::HashMap<_,_>>();
        let low = rd("/tmp/low.txt"); let nfd = rd("/tmp/nfd.txt");
        for c in 0..0x110000u32 {
            let w = low.get(&c).copied().unwrap_or(c); if super::unicode::to_lowercase(c) != w { println!("low {:x} want {:x} got {:x}", c, w, super::unicode::to_lowercase(c)); }
            let w = nfd.get(&c).copied().unwrap_or(c); if super::unicode::base_character(c) != w { println!("nfd {:x} want {:x} got {:x}", c, w, super::unicode::base_character(c)); }
        }
    }
}
