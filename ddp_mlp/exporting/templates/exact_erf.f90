
    elemental real(wp) function exact_erf(x)
        real(wp), intent(in) :: x
        real(wp), parameter :: small(*) = [ &
@ERF@]
        real(wp), parameter :: middle(*) = [ &
@ERF_NEAR_ONE@]
        real(wp), parameter :: large(*) = [ &
@ERFC@]
        real(wp) :: size_, high, low
        integer :: k

        exact_erf = x
        if (x /= x) return
        size_ = abs(x)
        if (size_ <= 0.84_wp) then
            exact_erf = size_ + times(size_, polynomial(small, times(size_, size_)))
        else if (size_ <= 1.35_wp) then
            exact_erf = @ERF_BASE@ + polynomial(middle, size_ - @ERF_MIDDLE@)
        else
            size_ = min(size_, 6.0_wp)
            call exp_in_two(-times(size_, size_), high, low, k)
            exact_erf = 1 - scale(times(high, polynomial(large, 1 / (2 + size_) - @ERFC_MIDDLE@)), k)
        end if
        exact_erf = sign(exact_erf, x)
    end function
