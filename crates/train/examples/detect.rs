use likeness_face::Detector;
use likeness_portraits::{Identity, Setting, draw};
fn main() {
    let d = Detector::builtin_frontal().unwrap();
    for side in [64u32, 128, 256, 512] {
        let mut n = 0; let mut ok=0; let mut by=[[0;2];5]; let mut off=[0f32;4];
        for s in 0..60u64 {
            let (i, t) = (Identity::drawn(s), Setting::drawn(s));
            let p = draw(&i, &t, side);
            let f = d.detect(&p).unwrap();
            let h = i.classes()[1];
            by[h][1]+=1;
            if let Some(b)=f.first() {
              n += 1; by[h][0]+=1;
              let l = likeness_portraits::landmarks(&i,&t,side);
              let (mut lo,mut hi)=([1e9f32;2],[-1e9f32;2]);
              for p in l { for k in 0..2 { lo[k]=lo[k].min(p[k]); hi[k]=hi[k].max(p[k]); } }
              let w=(hi[0]-lo[0]).max(hi[1]-lo[1]);
              let o=[(b.bbox[0]-lo[0])/w,(b.bbox[1]-lo[1])/w,(b.bbox[2]-hi[0])/w,(b.bbox[3]-hi[1])/w];
              if o.iter().all(|v| v.abs()<0.5) {ok+=1; for k in 0..4 {off[k]+=o[k];}}
            }
        }
        println!("{side}: found {n}/60 near {ok} by hair {by:?} off {:?}", off.map(|v| v/ok.max(1) as f32));
    }
}
